//! Which addresses are never connected to, so that nobody makes this server knock on its operator's own doors.

use std::{net::IpAddr, sync::LazyLock};

use ipnet::IpNet;

/// What is not the internet: this host, private networks, links, documentation, groups.
///
/// Spec: <https://www.iana.org/assignments/iana-ipv4-special-registry>, and its counterpart for IPv6.
static CLOSED: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "::/127",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ]
    .iter()
    .map(|range| range.parse().expect("a range as it is written above"))
    .collect()
});

/// Whether `address` is one that anybody may be sent to.
pub(crate) fn is_open(address: IpAddr) -> bool {
    // An IPv4 address in IPv6 clothes leads where the IPv4 address does.
    let address = match address {
        IpAddr::V6(v6) => match (v6.to_ipv4_mapped(), v6.segments()) {
            (Some(v4), _) => IpAddr::V4(v4),
            (None, [0x64, 0xff9b, 0, 0, 0, 0, high, low]) => {
                IpAddr::V4(((u32::from(high) << 16) | u32::from(low)).into())
            }
            _ => address,
        },
        IpAddr::V4(_) => address,
    };
    !CLOSED.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_own_doors_are_closed_in_whatever_clothes() {
        for closed in [
            "127.0.0.1",
            "127.8.9.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.31.255.255",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
        ] {
            assert!(!is_open(closed.parse().expect("an address")), "{closed}");
        }
        for open in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert!(is_open(open.parse().expect("an address")), "{open}");
        }
    }
}
