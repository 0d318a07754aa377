//! May this address be dialled? The operator's word, not the word of whoever wrote the object.
//!
//! A provider's URL is user input: without this, an ApiModel could lead the gateway, and
//! the key it holds, to the cloud's metadata service or to a neighbour's private network
//! (server-side request forgery). The verdict is over addresses, never over names: names are resolved
//! first, each answer is judged, and the address that was judged is the one that is dialled.
//!
//! An IPv6 address that only wraps an IPv4 one (mapped, NAT64, 6to4, Teredo) reaches that
//! IPv4 address, so it is judged by the worse of the two.
//!
//! Ranges: IANA IPv4 and IPv6 Special-Purpose Address Registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>), RFC 6890.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::snapshot::EgressScope;

/// What kind of address it is. Ordered: of a wrapped and a wrapping address the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Globally routed.
    Public,
    /// RFC 1918, shared address space (RFC 6598), unique local IPv6 (RFC 4193).
    Private,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// Documentation, benchmarking, discard and future ranges: nothing answers there rightfully.
    Reserved,
    /// `0.0.0.0/8`, `::`: connects to this machine on most systems.
    Unspecified,
    /// Multicast groups.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// A cloud's instance metadata service: whoever reads it holds the machine's identity.
    Metadata,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::Reserved => "reserved",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
        })
    }
}

/// The address may not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{ip} is a {class} address, which the egress policy does not allow here")]
pub struct Refused {
    /// As it would have been dialled.
    pub ip: IpAddr,
    /// Why.
    pub class: Class,
}

/// Whether `ip` may be dialled on behalf of an object with `scope`.
///
/// # Errors
/// [`Refused`], with the address and its class.
pub fn check(ip: IpAddr, scope: &EgressScope) -> Result<(), Refused> {
    let class = classify(ip);
    let allowed = match (class, scope) {
        (Class::Public, _) => true,
        (Class::Private, EgressScope::Standalone | EgressScope::Release) => true,
        (Class::Loopback, EgressScope::Standalone) => true,
        // A range that the operator listed opens ordinary addresses, never the machine itself.
        (Class::Private | Class::Reserved, EgressScope::Tenant(ranges)) => {
            let ip = ip.to_canonical();
            ranges.iter().any(|range| range.contains(&ip))
        }
        _ => false,
    };
    match allowed {
        true => Ok(()),
        false => Err(Refused { ip, class }),
    }
}

/// The kind of `ip`; an IPv4 address inside an IPv6 one is looked at too.
pub fn classify(ip: IpAddr) -> Class {
    match ip {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(ip: Ipv4Addr) -> Class {
    match ip.octets() {
        // AWS, Azure, GCP, OpenStack, Oracle; AWS ECS credentials and the Oracle/Alibaba ones besides.
        [169, 254, 169, 254] | [169, 254, 170, 2 | 23] => Class::Metadata,
        [100, 100, 100, 200] | [192, 0, 0, 192] => Class::Metadata,
        // Azure's platform address: public by number, the host's agent in fact.
        [168, 63, 129, 16] => Class::Metadata,
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::LinkLocal,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Class::Private,
        [255, 255, 255, 255] => Class::Broadcast,
        [224..=239, ..] => Class::Multicast,
        [240..=255, ..] => Class::Reserved,
        // IETF protocol assignments, documentation, 6to4 relays, benchmarking.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => Class::Reserved,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Reserved,
        _ => Class::Public,
    }
}

fn classify_v6(ip: Ipv6Addr) -> Class {
    let own = classify_v6_prefix(ip);
    match embedded_v4(ip) {
        Some(v4) => own.max(classify_v4(v4)),
        None => own,
    }
}

fn classify_v6_prefix(ip: Ipv6Addr) -> Class {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // AWS (IMDS and DNS/NTP neighbours), GCP, Oracle.
        [0xfd00, 0x0ec2, ..] => Class::Metadata,
        [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => Class::Metadata,
        [0xfd00, 0x00c1, 0, 0, 0xa9fe, 0xa9fe, 0xa9fe, 0xa9fe] => Class::Metadata,
        // Wrapped IPv4: whatever the inner address is.
        [0, 0, 0, 0, 0, 0xffff, ..] => Class::Public,
        [0x0064, 0xff9b, 0, 0, 0, 0, ..] => Class::Public,
        // Local-use NAT64 (RFC 8215): the operator's translator, a private range by definition.
        [0x0064, 0xff9b, 1, ..] => Class::Private,
        [0x2002, ..] | [0x2001, 0, ..] => Class::Public,
        // IPv4-compatible (deprecated), IPv4-translated, and the rest of ::/8.
        [0..=0x00ff, ..] => Class::Reserved,
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        // Unique local, and the site-local range it replaced (RFC 3879).
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Class::Private,
        // Protocol assignments (ORCHID, benchmarking, AMT …), documentation.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] => Class::Reserved,
        [0x3fff, 0..=0x0fff, ..] => Class::Reserved,
        // Only 2000::/3 is allocated as global unicast.
        [0x2000..=0x3fff, ..] => Class::Public,
        _ => Class::Reserved,
    }
}

/// The IPv4 address that a packet to `ip` would end at.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b, c, d, e, f) {
        // ::1 and :: are addresses of their own, not 0.0.0.1 and 0.0.0.0.
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(v4(g, h)),
        (0, 0, 0, 0, 0, 0xffff) => Some(v4(g, h)),
        // IPv4-translated (RFC 2765), ::ffff:0:a.b.c.d.
        (0, 0, 0, 0, 0xffff, 0) => Some(v4(g, h)),
        (0x0064, 0xff9b, ..) => Some(v4(g, h)),
        (0x2002, ..) => Some(v4(b, c)),
        // Teredo (RFC 4380): the client's address is stored inverted.
        (0x2001, 0, ..) => Some(v4(!g, !h)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// address, class, allowed in standalone, in the release's namespace, to a tenant without ranges.
    const VERDICTS: &[(&str, Class, [bool; 3])] = {
        const ALL: [bool; 3] = [true, true, true];
        const OWN: [bool; 3] = [true, true, false];
        const LOCAL: [bool; 3] = [true, false, false];
        const NONE: [bool; 3] = [false, false, false];
        &[
            ("1.1.1.1", Class::Public, ALL),
            ("93.184.216.34", Class::Public, ALL),
            ("2606:4700::1111", Class::Public, ALL),
            ("10.0.0.1", Class::Private, OWN),
            ("10.255.255.255", Class::Private, OWN),
            ("11.0.0.0", Class::Public, ALL),
            ("172.15.255.255", Class::Public, ALL),
            ("172.16.0.1", Class::Private, OWN),
            ("172.31.255.255", Class::Private, OWN),
            ("172.32.0.0", Class::Public, ALL),
            ("192.168.1.1", Class::Private, OWN),
            ("100.64.0.1", Class::Private, OWN),
            ("100.127.255.255", Class::Private, OWN),
            ("100.128.0.0", Class::Public, ALL),
            ("fc00::1", Class::Private, OWN),
            ("fdab::1", Class::Private, OWN),
            ("fec0::1", Class::Private, OWN),
            ("127.0.0.1", Class::Loopback, LOCAL),
            ("127.255.255.254", Class::Loopback, LOCAL),
            ("::1", Class::Loopback, LOCAL),
            ("0.0.0.0", Class::Unspecified, NONE),
            ("0.1.2.3", Class::Unspecified, NONE),
            ("::", Class::Unspecified, NONE),
            ("169.254.169.254", Class::Metadata, NONE),
            ("169.254.170.2", Class::Metadata, NONE),
            ("100.100.100.200", Class::Metadata, NONE),
            ("192.0.0.192", Class::Metadata, NONE),
            ("168.63.129.16", Class::Metadata, NONE),
            ("fd00:ec2::254", Class::Metadata, NONE),
            ("fd20:ce::254", Class::Metadata, NONE),
            ("169.254.1.1", Class::LinkLocal, NONE),
            ("fe80::1", Class::LinkLocal, NONE),
            ("febf::1", Class::LinkLocal, NONE),
            ("224.0.0.1", Class::Multicast, NONE),
            ("239.255.255.250", Class::Multicast, NONE),
            ("ff02::1", Class::Multicast, NONE),
            ("255.255.255.255", Class::Broadcast, NONE),
            ("240.0.0.1", Class::Reserved, NONE),
            ("192.0.2.1", Class::Reserved, NONE),
            ("198.51.100.7", Class::Reserved, NONE),
            ("203.0.113.7", Class::Reserved, NONE),
            ("198.18.0.1", Class::Reserved, NONE),
            ("198.20.0.1", Class::Public, ALL),
            ("192.88.99.1", Class::Reserved, NONE),
            ("2001:db8::1", Class::Reserved, NONE),
            ("3fff::1", Class::Reserved, NONE),
            ("2001:20::1", Class::Reserved, NONE),
            ("2001:200::1", Class::Public, ALL),
            ("100::1", Class::Reserved, NONE),
            ("4000::1", Class::Reserved, NONE),
            // IPv4-mapped.
            ("::ffff:1.1.1.1", Class::Public, ALL),
            ("::ffff:10.0.0.1", Class::Private, OWN),
            ("::ffff:127.0.0.1", Class::Loopback, LOCAL),
            ("::ffff:169.254.169.254", Class::Metadata, NONE),
            ("::ffff:0.0.0.0", Class::Unspecified, NONE),
            // IPv4-compatible and IPv4-translated.
            ("::1.1.1.1", Class::Reserved, NONE),
            ("::127.0.0.1", Class::Reserved, NONE),
            ("::169.254.169.254", Class::Metadata, NONE),
            ("::ffff:0:169.254.169.254", Class::Metadata, NONE),
            // NAT64, well-known and local-use.
            ("64:ff9b::1.1.1.1", Class::Public, ALL),
            ("64:ff9b::10.0.0.1", Class::Private, OWN),
            ("64:ff9b::127.0.0.1", Class::Loopback, LOCAL),
            ("64:ff9b::169.254.169.254", Class::Metadata, NONE),
            ("64:ff9b:1::1.1.1.1", Class::Private, OWN),
            ("64:ff9b:1::169.254.169.254", Class::Metadata, NONE),
            ("64:ff9b:2::1.1.1.1", Class::Reserved, NONE),
            // 6to4: 2002:V4::/48.
            ("2002:101:101::1", Class::Public, ALL),
            ("2002:a00:1::1", Class::Private, OWN),
            ("2002:7f00:1::1", Class::Loopback, LOCAL),
            ("2002:a9fe:a9fe::1", Class::Metadata, NONE),
            // Teredo: the last 32 bits inverted.
            ("2001:0:4136:e378:8000:63bf:fefe:fefe", Class::Public, ALL),
            (
                "2001:0:4136:e378:8000:63bf:5601:5601",
                Class::Metadata,
                NONE,
            ),
            (
                "2001:0:4136:e378:8000:63bf:80ff:fffe",
                Class::Loopback,
                LOCAL,
            ),
        ]
    };

    #[test]
    fn each_address_is_judged_as_the_table_says() {
        let scopes = [
            EgressScope::Standalone,
            EgressScope::Release,
            EgressScope::Tenant([].into()),
        ];
        for (text, class, allowed) in VERDICTS {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(classify(ip), *class, "{text}");
            for (scope, allowed) in scopes.iter().zip(allowed) {
                assert_eq!(check(ip, scope).is_ok(), *allowed, "{text} for {scope:?}");
            }
        }
    }

    #[test]
    fn listed_ranges_open_private_addresses_to_a_tenant_and_nothing_of_the_machine() {
        let everything = ["0.0.0.0/0", "::/0"].map(|range| range.parse().unwrap());
        let everything = EgressScope::Tenant(everything.into());
        for (text, class, _) in VERDICTS {
            let ordinary = matches!(class, Class::Public | Class::Private | Class::Reserved);
            let verdict = check(text.parse().unwrap(), &everything);
            assert_eq!(verdict.is_ok(), ordinary, "{text}");
        }
        let one = EgressScope::Tenant(["10.1.0.0/16".parse().unwrap()].into());
        for (text, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("2002:a01:203::1", false),
            ("1.1.1.1", true),
        ] {
            assert_eq!(
                check(text.parse().unwrap(), &one).is_ok(),
                allowed,
                "{text}"
            );
        }
    }

    #[test]
    fn a_refusal_says_which_address_and_why() {
        let ip = "::ffff:169.254.169.254".parse().unwrap();
        let refused = check(ip, &EgressScope::Standalone).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "::ffff:169.254.169.254 is a metadata service address, which the egress policy does not allow here"
        );
    }

    /// Every IPv6 form that leads to `v4`.
    fn wrappings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = v4.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        [
            [0, 0, 0, 0, 0, 0xffff, high, low],
            [0, 0, 0, 0, 0xffff, 0, high, low],
            [0x64, 0xff9b, 0, 0, 0, 0, high, low],
            [0x64, 0xff9b, 1, 7, 7, 7, high, low],
            [0x2002, high, low, 0, 0, 0, 0, 1],
            [0x2001, 0, 1, 1, 0, 0, !high, !low],
        ]
        .map(Ipv6Addr::from)
        .to_vec()
    }

    proptest::proptest! {
        #[test]
        fn wrapping_an_address_never_opens_a_way_to_it(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            for scope in [EgressScope::Standalone, EgressScope::Release, EgressScope::Tenant([].into())] {
                if check(v4.into(), &scope).is_err() {
                    for v6 in wrappings(v4) {
                        proptest::prop_assert!(check(v6.into(), &scope).is_err(), "{v6} {scope:?}");
                    }
                }
            }
        }
    }
}
