//! Networks in CIDR notation, such as `10.0.0.0/8` and `2001:db8::/32`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(IpNet);

impl Network {
    /// An IPv4 address that is written as an IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address:
    /// the kernel connects to the same host.
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Network {
    type Err = String;

    /// An address without a prefix is a network of one address. Bits after the prefix are an error,
    /// since they are a typing error in one of the two. Networks of IPv4-mapped addresses are
    /// networks of IPv4.
    fn from_str(text: &str) -> Result<Network, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse::<IpNet>().map_err(|_| format!("`{text}` is not a network"))?,
        };
        if network != network.trunc() {
            return Err(format!("`{text}` has bits after its prefix"));
        }
        let mapped = network.addr().to_canonical();
        match (mapped, network.prefix_len().checked_sub(96)) {
            (IpAddr::V4(ip), Some(prefix)) => Ok(Network(Ipv4Net::new_assert(ip, prefix).into())),
            _ => Ok(Network(network)),
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
