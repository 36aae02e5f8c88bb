package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// ReadCPU reads what a process has used, all its threads that live or have ended.
func ReadCPU(pid int) (CPU, error) {
	// The clock of another process, clock_getcpuclockid(3): nanoseconds, where /proc has 10 ms.
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return CPU{}, fmt.Errorf("proc: CPU clock of process %d: %w", pid, err)
	}
	cpu := CPU{Total: time.Duration(ts.Nano())}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return CPU{}, fmt.Errorf("proc: %w", err)
	}
	// The name in parentheses may have spaces; utime and stime are the 12th and 13th field after it.
	if i := bytes.LastIndexByte(stat, ')'); i >= 0 {
		f := strings.Fields(string(stat[i+1:]))
		if len(f) > 12 {
			const perTick = 10 * time.Millisecond // USER_HZ is 100 everywhere
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			cpu.User, cpu.System = time.Duration(user)*perTick, time.Duration(system)*perTick
		}
	}
	return cpu, nil
}

// ReadMemory reads the memory of a process.
func ReadMemory(pid int) (Memory, error) {
	f, err := fields(fmt.Sprintf("/proc/%d/smaps_rollup", pid), ":")
	if err != nil {
		return Memory{}, err
	}
	return Memory{Resident: f["Rss"] << 10, Anonymous: f["Anonymous"] << 10}, nil
}

// ReadKernel reads what the kernel holds.
func ReadKernel() (Kernel, error) {
	mem, err := fields("/proc/meminfo", ":")
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{Slab: mem["Slab"] << 10}
	stat, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return Kernel{}, fmt.Errorf("proc: %w", err)
	}
	for line := range strings.Lines(string(stat)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(f); i += 2 {
			if f[i] == "mem" {
				pages, _ := strconv.ParseInt(f[i+1], 10, 64)
				k.TCP = pages * int64(os.Getpagesize())
			}
		}
	}
	return k, nil
}

// fields reads lines of the form "Name: 123 kB".
func fields(path, separator string) (map[string]int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("proc: %w", err)
	}
	m := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(line, separator)
		if f := strings.Fields(rest); ok && len(f) > 0 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				m[name] = n
			}
		}
	}
	return m, nil
}

// Descriptors raises the soft limit of open files to the hard one and returns it.
func Descriptors() int {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	if r.Cur < r.Max {
		r.Cur = r.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &r) // then the runtime's own attempt stands
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &r)
	}
	return int(min(r.Cur, 1<<20))
}

// Resident is the resident memory of a process in bytes, 0 when it cannot be read. It is cheap
// enough to be called often.
func Resident(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// ReadMachine reads what all processors together have done.
func ReadMachine() (Machine, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, fmt.Errorf("proc: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return Machine{}, fmt.Errorf("proc: /proc/stat begins with %q", line)
	}
	const perTick = 10 * time.Millisecond
	var m Machine
	for i, text := range f[1:9] { // user nice system idle iowait irq softirq steal; guest is within user
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("proc: /proc/stat: %w", err)
		}
		d := time.Duration(n) * perTick
		m.Total += d
		if i != 3 && i != 4 {
			m.Busy += d
		}
	}
	return m, nil
}
