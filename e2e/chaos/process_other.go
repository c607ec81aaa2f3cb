//go:build unix && !linux

package chaos

import (
	"errors"
	"os/exec"
	"syscall"
)

// childAttributes keep the terminal's interrupts from a child.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// spawn starts a process.
func spawn(cmd *exec.Cmd) error { return cmd.Start() }

// memoryDisk is a small file system in memory.
type memoryDisk struct{}

var errNoMemoryDisk = errors.New("small file systems are mounted on Linux only")

func mountMemory(string, int64) (*memoryDisk, error) { return nil, errNoMemoryDisk }

func (*memoryDisk) resize(int64) error { return errNoMemoryDisk }
func (*memoryDisk) unmount() error     { return nil }
