package chaos

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// childAttributes make a child end with this process, however that ends, and
// keep the terminal's interrupts from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// starts are the processes to start. The kernel takes the end of the thread
// that started a child for the parent's, so one thread that never ends starts
// all of them.
var starts = sync.OnceValue(func() chan<- func() {
	queue := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range queue {
			start()
		}
	}()
	return queue
})

// spawn starts a process.
func spawn(cmd *exec.Cmd) error {
	result := make(chan error)
	starts() <- func() { result <- cmd.Start() }
	return <-result
}

// memoryDisk is a small file system in memory.
type memoryDisk struct{ dir string }

// mountMemory mounts a file system of so many bytes. It needs root.
func mountMemory(dir string, size int64) (*memoryDisk, error) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return nil, fmt.Errorf("mount a small file system on %s: %w", dir, err)
	}
	return &memoryDisk{dir}, nil
}

// resize makes room.
func (d *memoryDisk) resize(size int64) error {
	return syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", size))
}

func (d *memoryDisk) unmount() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }
