package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// keptContent is how much of one file is kept, keptFiles how much of all;
	// the oldest go first. A larger file is counted and hashed all the same,
	// but its content cannot be read back.
	keptContent = 32 << 20
	keptFiles   = 256 << 20
	// maxFiles is how many files are kept.
	maxFiles = 1024
)

// File is an uploaded file, in the shape of the OpenAI API, with the hash of
// its content besides.
type File struct {
	ID        string `json:"id"`
	Object    string `json:"object"`
	Bytes     int64  `json:"bytes"`
	CreatedAt int64  `json:"created_at"`
	Filename  string `json:"filename"`
	Purpose   string `json:"purpose"`
	Status    string `json:"status"`
	SHA256    string `json:"sha256"`
	content   []byte
}

// files keeps uploads, oldest first.
type files struct {
	mu   sync.Mutex
	all  []*File
	held int
}

func (f *files) add(file *File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, file)
	f.held += len(file.content)
	for f.held > keptFiles || len(f.all) > maxFiles {
		f.drop(0)
	}
}

// drop forgets file i. The lock is held.
func (f *files) drop(i int) {
	f.held -= len(f.all[i].content)
	f.all = slices.Delete(f.all, i, i+1)
}

func (f *files) list() []*File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*File{}, f.all...)
}

func (f *files) find(id string) (*File, error) {
	for _, file := range f.list() {
		if file.ID == id {
			return file, nil
		}
	}
	return nil, &refusal{status: http.StatusNotFound, message: "No such File object: " + id}
}

func (f *files) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.IndexFunc(f.all, func(file *File) bool { return file.ID == id }); i >= 0 {
		f.drop(i)
	}
}

func (f *files) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all, f.held = nil, 0
}

// uploadFile takes a multipart upload, in constant memory beyond what is kept.
func (x *exchange) uploadFile(string) error {
	file, err := x.readUpload()
	if err != nil {
		return err
	}
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	x.p.files.add(file)
	return x.answerValue(file)
}

func (x *exchange) readUpload() (*File, error) {
	form, err := x.r.MultipartReader()
	if err != nil {
		return nil, invalid("%v", err)
	}
	file := &File{ID: "file-" + x.id, Object: "file", CreatedAt: time.Now().Unix(), Status: "processed"}
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, invalid("reading the upload: %v", err)
		}
		switch part.FormName() {
		case "purpose":
			purpose, err := io.ReadAll(io.LimitReader(part, 256))
			if err != nil {
				return nil, invalid("reading the upload: %v", err)
			}
			file.Purpose = string(purpose)
		case "file":
			file.Filename = part.FileName()
			if err := file.read(part); err != nil {
				return nil, err
			}
		}
	}
	if file.SHA256 == "" {
		return nil, invalid("'file' is a required property")
	}
	return file, nil
}

// read counts and hashes the content, and keeps it if it is not too large.
func (f *File) read(content io.Reader) error {
	sum := sha256.New()
	var kept bytes.Buffer
	n, err := io.Copy(io.MultiWriter(sum, &kept), io.LimitReader(content, keptContent))
	if err == nil && n == keptContent {
		var rest int64
		rest, err = io.Copy(sum, content)
		n += rest
	}
	if err != nil {
		return invalid("reading the upload: %v", err)
	}
	if n <= keptContent {
		f.content = kept.Bytes()
	}
	f.Bytes, f.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	return nil
}

func (x *exchange) listFiles(string) error {
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	return x.answerValue(map[string]any{"object": "list", "data": x.p.files.list(), "has_more": false})
}

func (x *exchange) file(id string) error {
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	file, err := x.p.files.find(id)
	if err != nil {
		return err
	}
	return x.answerValue(file)
}

func (x *exchange) fileContent(id string) error {
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	file, err := x.p.files.find(id)
	if err != nil {
		return err
	}
	if int64(len(file.content)) != file.Bytes {
		return &refusal{status: http.StatusNotFound, message: fmt.Sprintf("File %s is too large to be read back.", id)}
	}
	x.deliver("application/octet-stream", file.content, false)
	return nil
}

func (x *exchange) deleteFile(id string) error {
	if _, err := x.prepare("", false); err != nil {
		return err
	}
	if _, err := x.p.files.find(id); err != nil {
		return err
	}
	x.p.files.remove(id)
	return x.answerValue(map[string]any{"id": id, "object": "file", "deleted": true})
}
