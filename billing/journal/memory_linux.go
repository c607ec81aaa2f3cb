package journal

import (
	"os"
	"syscall"
)

// reserve makes room for size bytes on the disk and maps it into memory, so
// that an append is a copy and cannot fail for want of space. The kernel owns
// the pages: they survive the process like what was written to the file. It
// returns nil where the file system cannot do this.
func reserve(f *os.File, size int64) ([]byte, error) {
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	switch err {
	case nil:
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return nil, nil
	default:
		return nil, os.NewSyscallError("fallocate", err)
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return memory, nil
}

func unmap(memory []byte) error { return syscall.Munmap(memory) }
