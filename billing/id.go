package billing

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// idEncoding is Crockford's base 32 in lower case: no i, l, o or u, and texts
// sort as the bytes do.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

const (
	timeBytes   = 6  // 48 bits of Unix milliseconds, until the year 10889
	randomBytes = 10 // 80 bits: no collision is to be expected within a millisecond
)

// RequestIDPrefix starts the ids of requests.
const RequestIDPrefix = "req"

// NewID returns a fresh id: the prefix, an underscore and 26 characters that
// sort by the given time to the millisecond, in no order within one. The rest
// is random, so an id tells no one how many others there are. Times before 1970
// count as its beginning.
func NewID(prefix string, now time.Time) string {
	var random [randomBytes]byte
	rand.Read(random[:]) // never fails: it ends the program instead
	return newID(prefix, now, random)
}

// IDFloor returns the least id that NewID may return for a time: ids of earlier
// milliseconds sort before it, all others after it.
func IDFloor(prefix string, t time.Time) string {
	return newID(prefix, t, [randomBytes]byte{})
}

func newID(prefix string, t time.Time, random [randomBytes]byte) string {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(0, t.UnixMilli())))
	var b [timeBytes + randomBytes]byte
	copy(b[:], ms[len(ms)-timeBytes:])
	copy(b[timeBytes:], random[:])
	return prefix + "_" + idEncoding.EncodeToString(b[:])
}
