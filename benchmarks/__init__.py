"""What dlvmguard costs, measured."""
