package billing

import (
	"errors"
	"net/netip"
)

// errAddresses says what ParseAddresses reads.
var errAddresses = errors.New("expected an IP address or a CIDR range, such as 192.0.2.1 or 2001:db8::/32")

// ParseAddresses reads an entry of a key's AllowedIPs, an address or a CIDR
// range, in canonical form: without host bits, and IPv4 as such where it is
// mapped into IPv6. Zones mean something on one machine only and are refused.
func ParseAddresses(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, errAddresses
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errAddresses
	}
	const mappedBits = 128 - 32
	if prefix.Addr().Is4In6() && prefix.Bits() >= mappedBits {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mappedBits)
	}
	return prefix.Masked(), nil
}

// FormatAddresses writes addresses as ParseAddresses reads them: a range of
// one address is that address.
func FormatAddresses(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
