//! Connects to a host whose every address is judged first: the address checked is the one dialled.
//!
//! A name is resolved once per dial. Each answer passes [`egress::check`], only the permitted ones are
//! tried, in turn, and they are handed to `connect(2)` as addresses, so that a name
//! that answers differently a moment later (DNS rebinding) changes nothing. A literal
//! takes the same way; spellings that only the C library understands (`0x7f.1`, `2130706433`)
//! go through its resolver and are judged by what it makes of them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bodhi_proto::egress::{self, Refused};
use bodhi_proto::snapshot::EgressScope;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Why there is no connection. Nothing was written in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("cannot resolve '{host}': {source}")]
    Resolve {
        /// As it was asked for.
        host: String,
        /// The resolver's word.
        source: io::Error,
    },
    /// It resolves to addresses that may not be dialled, and to no other.
    #[error("'{host}' must not be dialled: {refused}")]
    Refused {
        /// As it was asked for.
        host: String,
        /// The first of the verdicts.
        refused: Refused,
    },
    /// No permitted address answered before the deadline.
    #[error("no connection to '{host}' within {} ms", timeout.as_millis())]
    Timeout {
        /// As it was asked for.
        host: String,
        /// What there was for resolving and connecting together.
        timeout: Duration,
    },
    /// Every permitted address refused; the last one's error.
    #[error("cannot connect to {address} for '{host}': {source}")]
    Connect {
        /// As it was asked for.
        host: String,
        /// The last one tried.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
}

/// Names to addresses. A trait so that tests can answer differently each time.
pub trait Resolve {
    /// The addresses of `host`, in the order of preference.
    fn resolve(&self, host: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>>;
}

/// The system's resolver (`getaddrinfo`), on tokio's blocking threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Resolve for System {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// What `host` resolves to and `scope` lets be dialled; never empty.
///
/// For clients that connect by themselves: they must dial these addresses, not the name.
///
/// # Errors
/// [`DialError::Resolve`] and [`DialError::Refused`].
pub async fn permitted(
    resolver: &impl Resolve,
    host: &str,
    port: u16,
    scope: &EgressScope,
) -> Result<Vec<SocketAddr>, DialError> {
    let unresolved = |source| DialError::Resolve {
        host: host.to_owned(),
        source,
    };
    let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(literal) => vec![literal],
        Err(_) => resolver.resolve(host).await.map_err(unresolved)?,
    };
    let mut first_refusal = None;
    let mut allowed = Vec::with_capacity(addresses.len());
    for ip in addresses {
        match egress::check(ip, scope) {
            Ok(()) => allowed.push(SocketAddr::new(ip, port)),
            Err(refused) => {
                first_refusal.get_or_insert(refused);
            }
        }
    }
    match (allowed.is_empty(), first_refusal) {
        (false, _) => Ok(allowed),
        (true, Some(refused)) => Err(DialError::Refused {
            host: host.to_owned(),
            refused,
        }),
        (true, None) => Err(unresolved(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no addresses",
        ))),
    }
}

/// A connection to `host`, within `timeout` for resolving and connecting together.
///
/// The permitted addresses are tried one after the other, families alternating (RFC 8305 §4);
/// each may use an even share of the time that is left, so that one black hole does not spend it all.
///
/// # Errors
/// Each variant of [`DialError`]; nothing was written in any case.
pub async fn dial(
    resolver: &impl Resolve,
    host: &str,
    port: u16,
    scope: &EgressScope,
    timeout: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + timeout;
    let late = || DialError::Timeout {
        host: host.to_owned(),
        timeout,
    };
    let addresses = timeout_at(deadline, permitted(resolver, host, port, scope))
        .await
        .map_err(|_| late())??;
    let addresses = alternate_families(addresses);
    let mut failed = late();
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Options only tune the connection; a system that lacks one still connects.
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%address, %error, "socket options");
                }
                return Ok(stream);
            }
            Ok(Err(source)) => {
                failed = DialError::Connect {
                    host: host.to_owned(),
                    address: *address,
                    source,
                };
            }
            Err(_) if matches!(failed, DialError::Connect { .. }) => {}
            Err(_) => failed = late(),
        }
    }
    Err(failed)
}

/// IPv6 and IPv4 by turns, beginning with the resolver's favourite; order kept within each.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let longest = first.len().max(second.len());
    (0..longest)
        .flat_map(|i| [first.get(i), second.get(i)])
        .flatten()
        .copied()
        .collect()
}

/// Both sides' options: no Nagle delay, and a peer that is gone is noticed within half a minute.
///
/// # Errors
/// The first option that the system refuses; the ones before it stay set.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3),
    )?;
    // Written bytes that nobody acknowledges; keepalive covers only silent connections (RFC 5482).
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::net::TcpListener;

    use super::*;

    /// Answers the n-th question with the n-th list, the last one for ever after.
    struct Script(RefCell<Vec<Vec<&'static str>>>);

    impl Script {
        fn new(answers: &[&[&'static str]]) -> Self {
            Self(RefCell::new(
                answers.iter().rev().map(|a| a.to_vec()).collect(),
            ))
        }
    }

    impl Resolve for Script {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            let mut answers = self.0.borrow_mut();
            let answer = match answers.len() {
                1 => answers[0].clone(),
                _ => answers.pop().unwrap(),
            };
            Ok(answer.iter().map(|ip| ip.parse().unwrap()).collect())
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn only_the_permitted_answers_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mixed = Script::new(&[&["169.254.169.254", "127.0.0.1"]]);
        let stream = dial(&mixed, "mixed.test", port, &EgressScope::Standalone, SECOND)
            .await
            .unwrap();
        assert_eq!(
            stream.peer_addr().unwrap().to_string(),
            format!("127.0.0.1:{port}")
        );
        assert!(stream.nodelay().unwrap());
        let all_bad = Script::new(&[&["169.254.169.254", "fe80::1"]]);
        let error = dial(&all_bad, "bad.test", port, &EgressScope::Standalone, SECOND)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }

    /// A rebinding name: harmless when judged, the metadata service when asked again.
    #[tokio::test]
    async fn a_name_is_resolved_once_so_that_the_address_checked_is_the_one_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let rebinding = Script::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
        let scope = EgressScope::Standalone;
        let stream = dial(&rebinding, "rebind.test", port, &scope, SECOND)
            .await
            .unwrap();
        assert!(stream.peer_addr().unwrap().ip().is_loopback());
        let error = dial(&rebinding, "rebind.test", port, &scope, SECOND)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn odd_spellings_of_an_address_are_judged_by_what_would_be_dialled() {
        for spelling in [
            "127.0.0.1",
            "[::1]",
            "::ffff:127.0.0.1",
            "localhost",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127.1",
        ] {
            let verdict = permitted(&System, spelling, 80, &EgressScope::Release).await;
            assert!(
                matches!(verdict, Err(DialError::Refused { .. })),
                "{spelling}: {verdict:?}"
            );
        }
        for spelling in ["0", "0.0.0.0", "0xa9fea9fe", "2852039166", "169.254.43518"] {
            let verdict = permitted(&System, spelling, 80, &EgressScope::Standalone).await;
            assert!(
                matches!(verdict, Err(DialError::Refused { .. })),
                "{spelling}: {verdict:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_dead_address_leaves_time_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Nothing listens on the port at 127.0.0.2: refused at once, the next one is tried.
        let two = Script::new(&[&["127.0.0.2", "127.0.0.1"]]);
        let stream = dial(&two, "two.test", port, &EgressScope::Standalone, SECOND)
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
    }

    #[tokio::test(start_paused = true)]
    async fn resolving_shares_the_connect_deadline() {
        struct Never;
        impl Resolve for Never {
            async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
                std::future::pending().await
            }
        }
        let started = Instant::now();
        let error = dial(&Never, "slow.test", 80, &EgressScope::Standalone, SECOND)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Timeout { .. }), "{error}");
        assert_eq!(started.elapsed(), SECOND);
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let list = |text: &str| -> Vec<SocketAddr> {
            text.split(' ')
                .map(|a| SocketAddr::new(a.parse().unwrap(), 1))
                .collect()
        };
        assert_eq!(
            alternate_families(list("::1 ::2 ::3 1.1.1.1")),
            list("::1 1.1.1.1 ::2 ::3")
        );
        assert_eq!(alternate_families(vec![]), vec![]);
    }
}
