//go:build !linux

package proc

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }

// ReadCPU needs Linux.
func ReadCPU(int) (CPU, error) { return CPU{}, ErrPlatform }

// ReadMemory needs Linux.
func ReadMemory(int) (Memory, error) { return Memory{}, ErrPlatform }

// ReadKernel needs Linux.
func ReadKernel() (Kernel, error) { return Kernel{}, ErrPlatform }

// Descriptors is a guess here.
func Descriptors() int { return 1024 }

// Resident is 0 here.
func Resident(int) int64 { return 0 }

// ReadMachine needs Linux.
func ReadMachine() (Machine, error) { return Machine{}, ErrPlatform }
