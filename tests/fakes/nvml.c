/* A libnvidia-ml.so.1 that answers from a file: "nvml.answers" beside the library, lines of KEY=VALUE.
 *
 * KEY is a name below, or "K.name" for GPU number K alone, which goes first. A key that is a function's symbol makes
 * that function fail: with the return code that VALUE is, or it may "hang", "abort", "exit" or "print" garbage to
 * every descriptor. An answer that is missing is NOT_SUPPORTED. Strings are taken byte by byte. Part number N that MIG
 * cut out of a GPU has keys of its own, "K.migN.name".
 * Structures and names: https://docs.nvidia.com/deploy/nvml-api/ */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
#define FUNCTION __attribute__((visibility("default"))) int
#define GPU(device) ((int)(intptr_t)(device)-1)
#define PART(gpu, part) ((gpu) + ((part) + 1) * 0x1000) /* what MIG cut out of a GPU, as if it were one */

typedef struct { uint32_t pid; uint64_t memory; uint32_t gpu_instance, compute_instance; } Process;
typedef struct { uint32_t id, scope; int64_t timestamp, latency; uint32_t type; int result; uint64_t value; } Field;
typedef struct { uint32_t pid; uint64_t time; uint32_t sm, memory, encoder, decoder; } Used;
typedef struct { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

static char *answers(void) {
    static char *text;
    if (text) return text;
    Dl_info self;
    char path[4096];
    dladdr((void *)answers, &self);
    snprintf(path, sizeof path, "%.*s/nvml.answers", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
    FILE *file = fopen(path, "rb");
    text = calloc(1, 1 << 20);
    if (file) { fread(text + 1, 1, (1 << 20) - 2, file); fclose(file); }
    text[0] = '\n';
    return text;
}

/* The value of a key, NULL where there is none; good until the next call. */
static const char *value(int gpu, const char *name) {
    static char found[8192];
    char key[256];
    for (int general = gpu < 0; general < 2; general++) {
        if (general) snprintf(key, sizeof key, "\n%s=", name);
        else if (gpu >= 0x1000) snprintf(key, sizeof key, "\n%d.mig%d.%s=", gpu & 0xfff, (gpu >> 12) - 1, name);
        else snprintf(key, sizeof key, "\n%d.%s=", gpu, name);
        const char *start = strstr(answers(), key);
        if (!start) continue;
        start += strlen(key);
        snprintf(found, sizeof found, "%.*s", (int)strcspn(start, "\n"), start);
        return found;
    }
    return NULL;
}

/* The fault that is ordered for a function, 0 where there is none. */
static int fault(const char *symbol, int gpu) {
    const char *order = value(gpu, symbol);
    if (!order) return OK;
    if (!strcmp(order, "hang")) for (;;) pause();
    if (!strcmp(order, "abort")) abort();
    if (!strcmp(order, "exit")) _exit(0);
    if (!strcmp(order, "print")) {
        for (int fd = 0; fd < 64; fd++) if (write(fd, "{\"gpus\": 7", 10)) {}
        return OK;
    }
    return atoi(order);
}
#define FAULT(gpu) do { int code = fault(__func__, gpu); if (code) return code; } while (0)

static int text(int gpu, const char *name, char *buffer, unsigned size) {
    const char *said = value(gpu, name);
    return said ? (snprintf(buffer, size, "%s", said), OK) : NOT_SUPPORTED;
}

/* The n-th of the numbers of an answer, which stand apart by commas. */
static int number(int gpu, const char *name, int n, int64_t *into) {
    const char *said = value(gpu, name);
    for (; said && n; n--) said = (said = strchr(said, ',')) ? said + 1 : NULL;
    return said ? (*into = strtoll(said, NULL, 0), OK) : NOT_SUPPORTED;
}

#define NUMBER(type, name, n, into) do { \
    int64_t said; \
    if (number(GPU(device), name, n, &said)) return NOT_SUPPORTED; \
    *(into) = (type)said; \
} while (0)

FUNCTION nvmlInitWithFlags(unsigned flags) { (void)flags; FAULT(-1); return OK; }
FUNCTION nvmlShutdown(void) { FAULT(-1); return OK; }
FUNCTION nvmlSystemGetDriverVersion(char *buffer, unsigned size) { FAULT(-1); return text(-1, "driver", buffer, size); }
FUNCTION nvmlDeviceGetCount_v2(unsigned *count) { void *device = NULL; FAULT(-1); NUMBER(unsigned, "count", 0, count); return OK; }
FUNCTION nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    FAULT((int)index);
    *device = (void *)(intptr_t)(index + 1);
    return OK;
}
FUNCTION nvmlDeviceGetIndex(void *device, unsigned *index) { FAULT(GPU(device)); *index = (unsigned)GPU(device); return OK; }
FUNCTION nvmlDeviceGetName(void *device, char *buffer, unsigned size) { FAULT(GPU(device)); return text(GPU(device), "name", buffer, size); }
FUNCTION nvmlDeviceGetUUID(void *device, char *buffer, unsigned size) { FAULT(GPU(device)); return text(GPU(device), "uuid", buffer, size); }
FUNCTION nvmlDeviceGetPciInfo_v3(void *device, Pci *pci) {
    FAULT(GPU(device));
    memset(pci, 0, sizeof *pci);
    NUMBER(uint32_t, "pci", 0, &pci->domain);
    NUMBER(uint32_t, "pci", 1, &pci->bus);
    NUMBER(uint32_t, "pci", 2, &pci->device);
    return OK;
}
FUNCTION nvmlDeviceGetPersistenceMode(void *device, int *mode) { FAULT(GPU(device)); NUMBER(int, "persistence", 0, mode); return OK; }
FUNCTION nvmlDeviceGetMemoryInfo(void *device, uint64_t *memory) { /* total, free, used */
    FAULT(GPU(device));
    NUMBER(uint64_t, "memory", 0, &memory[0]);
    NUMBER(uint64_t, "memory", 1, &memory[2]);
    memory[1] = memory[0] - memory[2];
    return OK;
}
FUNCTION nvmlDeviceGetEccMode(void *device, int *current, int *pending) {
    FAULT(GPU(device));
    NUMBER(int, "ecc", 0, current);
    NUMBER(int, "ecc", 1, pending);
    return OK;
}
FUNCTION nvmlDeviceGetTotalEccErrors(void *device, int uncorrected, int aggregate, uint64_t *count) {
    FAULT(GPU(device));
    NUMBER(uint64_t, uncorrected ? "uncorrected" : "corrected", aggregate, count);
    return OK;
}
FUNCTION nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
    (void)sensor; FAULT(GPU(device)); NUMBER(unsigned, "temperature", 0, degrees); return OK;
}
FUNCTION nvmlDeviceGetTemperatureV(void *device, int *versioned) { /* version, sensor, degrees */
    FAULT(GPU(device)); NUMBER(int, "temperature", 0, &versioned[2]); return OK;
}
FUNCTION nvmlDeviceGetTemperatureThreshold(void *device, int which, unsigned *degrees) {
    FAULT(GPU(device)); NUMBER(unsigned, "thresholds", which, degrees); return OK; /* shutdown, slowdown */
}
FUNCTION nvmlDeviceGetMarginTemperature(void *device, int *versioned) { /* version, degrees */
    FAULT(GPU(device)); NUMBER(int, "margin", 0, &versioned[1]); return OK;
}
FUNCTION nvmlDeviceGetFieldValues(void *device, int count, Field *fields) {
    FAULT(GPU(device));
    for (int i = 0; i < count; i++) {
        char name[32];
        int64_t said = 0;
        snprintf(name, sizeof name, "field%u", fields[i].id);
        fields[i].result = number(GPU(device), name, fields[i].scope, &said); /* the n-th is that of link n */
        fields[i].type = fields[i].id >= 193 && fields[i].id <= 196 ? 5 : 3; /* degrees are signed, 32 bits */
        fields[i].value = fields[i].type == 5 ? (uint32_t)said : (uint64_t)said;
    }
    return OK;
}
FUNCTION nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    FAULT(GPU(device));
    NUMBER(unsigned, "utilisation", 0, &rates[0]);
    NUMBER(unsigned, "utilisation", 1, &rates[1]);
    return OK;
}

/* An answer of "count,first pid,memory"; without memory the driver does not account for it. */
static int processes(int gpu, const char *name, unsigned *count, Process *into) {
    int64_t there = 0, pid = 0, memory = -1;
    number(gpu, name, 0, &there); number(gpu, name, 1, &pid); number(gpu, name, 2, &memory);
    unsigned room = *count;
    *count = (unsigned)there;
    if (there > room || (there && !into)) return INSUFFICIENT_SIZE;
    int64_t instance[2] = {-1, -1};
    for (int n = 0; n < 2; n++) number(gpu, "instance", n, &instance[n]);
    for (unsigned i = 0; i < there; i++)
        into[i] = (Process){(uint32_t)pid + i, (uint64_t)memory, (uint32_t)instance[0], (uint32_t)instance[1]};
    return OK;
}
FUNCTION nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *into) {
    FAULT(GPU(device)); return processes(GPU(device), "compute", count, into);
}
FUNCTION nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, Process *into) {
    FAULT(GPU(device)); return processes(GPU(device), "graphics", count, into);
}
FUNCTION nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned *count, Process *into) {
    FAULT(GPU(device)); return processes(GPU(device), "mps", count, into);
}
/* An answer of "pid,percent": one sample. */
FUNCTION nvmlDeviceGetProcessUtilization(void *device, Used *into, unsigned *count, uint64_t since) {
    (void)since;
    FAULT(GPU(device));
    int64_t pid, percent;
    if (number(GPU(device), "used", 0, &pid)) return NOT_FOUND;
    NUMBER(int64_t, "used", 1, &percent);
    if (!into || !*count) return *count = 1, INSUFFICIENT_SIZE;
    *count = 1;
    into[0] = (Used){(uint32_t)pid, 1, (uint32_t)percent, 0, 0, 0};
    return OK;
}

/* What is one text or one number. */
#define TEXT(symbol, name) \
    FUNCTION symbol(void *device, char *buffer, unsigned size) { FAULT(GPU(device)); return text(GPU(device), name, buffer, size); }
#define ONE(symbol, type, name) \
    FUNCTION symbol(void *device, type *into) { FAULT(GPU(device)); NUMBER(type, name, 0, into); return OK; }
#define TWO(symbol, name) \
    FUNCTION symbol(void *device, int *first, int *second) { \
        FAULT(GPU(device)); NUMBER(int, name, 0, first); NUMBER(int, name, 1, second); return OK; \
    }
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
ONE(nvmlDeviceGetArchitecture, unsigned, "architecture")
TWO(nvmlDeviceGetCudaComputeCapability, "capability")
ONE(nvmlDeviceGetMinorNumber, unsigned, "minor")
ONE(nvmlDeviceGetComputeMode, int, "computemode")
ONE(nvmlDeviceGetAccountingMode, int, "accounting")
ONE(nvmlDeviceGetDisplayActive, int, "display")
ONE(nvmlDeviceGetVirtualizationMode, uint64_t, "virtualisation")
TWO(nvmlDeviceGetEncoderUtilization, "encoder")
TWO(nvmlDeviceGetDecoderUtilization, "decoder")
TWO(nvmlDeviceGetGspFirmwareMode, "gsp")
FUNCTION nvmlDeviceGetGspFirmwareVersion(void *device, char *buffer) { FAULT(GPU(device)); return text(GPU(device), "gspversion", buffer, 64); }
FUNCTION nvmlDeviceGetDramEncryptionMode(void *device, int *now, int *pending) { /* version, state */
    FAULT(GPU(device)); NUMBER(int, "encryption", 0, &now[1]); NUMBER(int, "encryption", 1, &pending[1]); return OK;
}
FUNCTION nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    FAULT(GPU(device));
    NUMBER(unsigned, "rows", 0, corrected); NUMBER(unsigned, "rows", 1, uncorrected);
    NUMBER(unsigned, "rows", 2, pending); NUMBER(unsigned, "rows", 3, failed);
    return OK;
}
FUNCTION nvmlDeviceValidateInforom(void *device) { int64_t said; FAULT(GPU(device)); return number(GPU(device), "inforom", 0, &said); }
ONE(nvmlDeviceGetEnforcedPowerLimit, unsigned, "powerlimit")
ONE(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, "powerdefault")
ONE(nvmlDeviceGetPowerUsage, unsigned, "power")
ONE(nvmlDeviceGetTotalEnergyConsumption, uint64_t, "energy")
ONE(nvmlDeviceGetPerformanceState, int, "pstate")
ONE(nvmlDeviceGetCurrentClocksEventReasons, uint64_t, "reasons")
ONE(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t, "reasons")
ONE(nvmlDeviceGetFanSpeed, unsigned, "fan")
FUNCTION nvmlDeviceGetCurrPcieLinkGeneration(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "link", 0, into); return OK; }
FUNCTION nvmlDeviceGetCurrPcieLinkWidth(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "link", 1, into); return OK; }
FUNCTION nvmlDeviceGetMaxPcieLinkGeneration(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "linkmax", 0, into); return OK; }
FUNCTION nvmlDeviceGetMaxPcieLinkWidth(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "linkmax", 1, into); return OK; }
ONE(nvmlDeviceGetPcieReplayCounter, unsigned, "replays")
FUNCTION nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) { FAULT(GPU(device)); NUMBER(unsigned, "links", link, active); return OK; }
FUNCTION nvmlDeviceGetNvLinkErrorCounter(void *device, unsigned link, unsigned counter, uint64_t *count) {
    (void)link; FAULT(GPU(device)); NUMBER(uint64_t, "linkerrors", counter, count); return OK;
}
FUNCTION nvmlDeviceGetGpuFabricInfoV(void *device, uint32_t *info) { /* version, 16 bytes, status, clique, state, health */
    FAULT(GPU(device));
    NUMBER(uint32_t, "fabric", 0, &info[7]); NUMBER(uint32_t, "fabric", 1, &info[5]); NUMBER(uint32_t, "fabric", 2, &info[8]);
    return OK;
}
TWO(nvmlDeviceGetMigMode, "mig")
ONE(nvmlDeviceGetMaxMigDeviceCount, unsigned, "migmax")
FUNCTION nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned part, void **into) {
    FAULT(GPU(device));
    *into = (void *)(intptr_t)(PART(GPU(device), (int)part) + 1);
    return value(GPU(*into), "uuid") ? OK : NOT_FOUND;
}
FUNCTION nvmlDeviceGetGpuInstanceId(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "instance", 0, into); return OK; }
FUNCTION nvmlDeviceGetComputeInstanceId(void *device, unsigned *into) { FAULT(GPU(device)); NUMBER(unsigned, "instance", 1, into); return OK; }
FUNCTION nvmlSystemGetConfComputeState(unsigned *state) { /* environment, feature, developers' tools */
    void *device = NULL;
    FAULT(-1);
    for (int n = 0; n < 3; n++) NUMBER(unsigned, "confidential", n, &state[n]);
    return OK;
}
