//! Which interface a connection leaves by, from `/proc/net/route` and `/proc/net/ipv6_route`.
//!
//! Total parsers of the main routing table of our network namespace: the longest prefix wins, then the smallest metric.
//! Policy routing is not followed; a tap on the wrong interface sees nothing and costs nothing but itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Routes that are kept.
const ROUTES_MAX: usize = 4_096;
/// `RTF_UP`
const UP: u32 = 1;
/// `RTF_REJECT`
const REJECT: u32 = 0x200;

/// A routing table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    routes: Vec<Route>,
    loopback: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    network: u128,
    prefix: u32,
    metric: u32,
    ifindex: u32,
}

impl Routes {
    /// The table of the namespace behind `proc_root/net`; interfaces are numbered by `sys_root/class/net/*/ifindex`.
    /// Whatever cannot be read is left out.
    pub fn read(proc_root: &Path, sys_root: &Path) -> Routes {
        let text = |path: &str| std::fs::read_to_string(proc_root.join("net").join(path)).unwrap_or_default();
        let ifindex = |name: &str| {
            let path = sys_root.join("class/net").join(name).join("ifindex");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Routes::parse(&text("route"), &text("ipv6_route"), &ifindex)
    }

    /// The table in the texts of both files; `ifindex` numbers interfaces.
    pub(super) fn parse(v4: &str, v6: &str, ifindex: &dyn Fn(&str) -> Option<u32>) -> Routes {
        let v4 = v4.lines().skip(1).filter_map(|line| parse_v4(line, ifindex));
        let v6 = v6.lines().filter_map(|line| parse_v6(line, ifindex));
        let mut routes: Vec<_> = v4.chain(v6).take(ROUTES_MAX).collect();
        routes.sort_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric));
        Routes { routes, loopback: ifindex("lo") }
    }

    /// The interface towards an address, by number.
    pub fn interface_to(&self, remote: IpAddr) -> Option<u32> {
        if remote.is_loopback() {
            return self.loopback;
        }
        let address = mapped(remote);
        self.routes.iter().find(|route| matches(route, address)).map(|route| route.ifindex)
    }

    /// Interfaces of default routes.
    pub fn default_interfaces(&self) -> Vec<u32> {
        let mut all: Vec<_> =
            self.routes.iter().filter(|r| r.prefix == 0 || r.prefix == 96).map(|r| r.ifindex).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The loopback interface.
    pub fn loopback(&self) -> Option<u32> {
        self.loopback
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn matches(route: &Route, address: u128) -> bool {
    let v4 = address >> 32 == 0xffff;
    if v4 != (route.prefix >= 96 && route.network >> 32 == 0xffff) {
        return false;
    }
    let shift = 128 - route.prefix.min(128);
    shift >= 128 || (address ^ route.network) >> shift == 0
}

/// `eth0 00000000 010011AC 0003 0 0 100 00000000 0 0 0`, addresses as the kernel keeps them in memory.
fn parse_v4(line: &str, ifindex: &dyn Fn(&str) -> Option<u32>) -> Option<Route> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let (destination, flags, mask) = (hex(1)?, hex(3)?, hex(7)?);
    let metric = fields.get(6)?.parse().ok()?;
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    let network = Ipv4Addr::from(destination.to_ne_bytes()).to_ipv6_mapped().to_bits();
    Some(Route { network, prefix: 96 + mask.count_ones(), metric, ifindex: ifindex(fields[0])? })
}

/// `destination prefix source prefix next_hop metric refcnt use flags device`
fn parse_v6(line: &str, ifindex: &dyn Fn(&str) -> Option<u32>) -> Option<Route> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let hex = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let network = u128::from_str_radix(fields.first()?, 16).ok()?;
    let (prefix, metric, flags) = (hex(1)?, hex(5)?, hex(8)?);
    if flags & UP == 0 || flags & REJECT != 0 || prefix > 128 || Ipv6Addr::from_bits(network).is_multicast() {
        return None;
    }
    let name = fields.get(9)?;
    (*name != "lo").then_some(())?;
    Some(Route { network, prefix, metric, ifindex: ifindex(name)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010011AC\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t00000000\t010011AC\t0003\t0\t0\t200\t00000000\t0\t0\t0
eth2\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
cni0\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth3\t0000A8C0\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
";
    const V6: &str = "\
20010db8000000000000000000000000 20 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth2
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_longest_prefix_wins_then_the_smallest_metric() {
        let number = |name: &str| match name {
            "lo" => Some(1),
            "cni0" => Some(9),
            other => other.strip_prefix("eth")?.parse::<u32>().ok().map(|n| n + 2),
        };
        let routes = Routes::parse(V4, V6, &number);
        let check = |remote: &str, expected: Option<u32>| {
            assert_eq!(routes.interface_to(remote.parse().expect("address")), expected, "{remote}");
        };
        check("1.2.3.4", Some(2));
        check("10.9.9.9", Some(4));
        check("10.244.1.7", Some(9));
        check("192.168.1.1", Some(2));
        check("127.0.0.1", Some(1));
        check("2001:db8::1", Some(4));
        check("2600::1", Some(3));
        check("::1", Some(1));
        assert_eq!(routes.default_interfaces(), [2, 3]);
        assert_eq!(Routes::default().interface_to("1.2.3.4".parse().expect("address")), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(v4 in ".{0,300}", v6 in "[0-9a-f lo\n]{0,300}") {
            let _ = Routes::parse(&v4, &v6, &|_| Some(1));
        }
    }
}
