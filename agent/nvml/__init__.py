"""The NVML child process, ``python -I -m agent.nvml``. What it answers in is agent/facts/nvml.py."""
