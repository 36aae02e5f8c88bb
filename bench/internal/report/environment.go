package report

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Environment is where a report was made: what a figure means nothing without. It names no machine,
// user or path.
type Environment struct {
	Commit  string            `json:"commit"` // of the project, "+" when there were changes
	Go      string            `json:"go"`
	System  string            `json:"system"` // operating system and architecture
	Kernel  string            `json:"kernel,omitempty"`
	CPU     string            `json:"cpu,omitempty"`
	Cores   int               `json:"cores"`
	Memory  int64             `json:"memory,omitempty"` // bytes
	Files   int               `json:"files,omitempty"`  // descriptors that a process may have
	Brokers map[string]string `json:"brokers,omitempty"`
	Peers   map[string]string `json:"peers,omitempty"` // versions of what else was measured
}

// ReadEnvironment looks around. files is the limit of descriptors.
func ReadEnvironment(files int) Environment {
	e := Environment{
		Commit: commit(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Files: files,
		Kernel: firstLine("/proc/sys/kernel/osrelease"),
	}
	e.CPU = field("/proc/cpuinfo", "model name")
	if kb, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		e.Memory = kb << 10
	}
	return e
}

// CommandVersion is the first line that a program prints about itself, empty when it is not there.
func CommandVersion(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func commit() string {
	if rev := CommandVersion("git", "rev-parse", "--short=12", "HEAD"); rev != "" {
		if CommandVersion("git", "status", "--porcelain", "--untracked-files=no") != "" {
			rev += "+"
		}
		return rev
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func firstLine(path string) string {
	data, _ := os.ReadFile(path) // where there is none there is nothing to say
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func field(path, name string) string {
	data, _ := os.ReadFile(path) // where there is none there is nothing to say
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
