//! Networks in CIDR notation, such as `10.0.0.0/8` and `2001:db8::/32`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// An IPv4 address that is written as an IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address:
    /// the kernel connects to the same host.
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let differing = network.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let differing = network.to_bits() ^ ip.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// An address without a prefix is a network of one address. Bits after the prefix are an error,
    /// since they are a typing error in one of the two.
    fn from_str(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("`{text}` is not a network"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => match digits.parse::<u8>() {
                Ok(prefix) if prefix <= bits && digits.bytes().all(|byte| byte.is_ascii_digit()) => prefix,
                _ => return Err(format!("`{text}` has no prefix of 0 to {bits} bits")),
            },
        };
        let trailing = match address {
            IpAddr::V4(ip) => ip.to_bits().trailing_zeros(),
            IpAddr::V6(ip) => ip.to_bits().trailing_zeros(),
        };
        if trailing < u32::from(bits - prefix) {
            return Err(format!("`{text}` has bits after its prefix"));
        }
        Ok(Network { address, prefix }.unmapped())
    }
}

impl Network {
    /// Networks of IPv4-mapped addresses are networks of IPv4.
    fn unmapped(self) -> Network {
        match self.address.to_canonical() {
            address @ IpAddr::V4(_) if self.address.is_ipv6() && self.prefix >= 96 => {
                Network { address, prefix: self.prefix - 96 }
            }
            _ => self,
        }
    }
}

/// The address that the kernel connects to for `ip`: the unspecified address means this host.
#[allow(dead_code, reason = "each example uses a part of it")]
pub(crate) fn effective(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
