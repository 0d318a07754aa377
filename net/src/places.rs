//! Where controllers are: names or addresses with ports, as operators write them.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use http::uri::Authority;
use tokio::net::lookup_host;

use crate::identity::{Expected, HostError};

/// `https://HOST:PORT`, one or several separated by commas. A name may have several addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(Vec<(String, u16)>);

impl Places {
    /// `None` where any of them is something else, or has a path.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',').map(place).collect::<Option<_>>().map(Self)
    }

    /// Whom to expect there: a controller, whichever of its addresses is dialled.
    ///
    /// # Errors
    /// No certificate could name one of the hosts.
    pub fn controllers(&self) -> Result<Expected, HostError> {
        Expected::controller(self.0.iter().map(|(host, _)| &**host))
    }

    /// The addresses that the names have now, at least one, in no order.
    ///
    /// # Errors
    /// No name has any, or none can be resolved at present.
    pub async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let (mut found, mut failure) = (Vec::new(), None);
        for (host, port) in &self.0 {
            match lookup_host((host.as_str(), *port)).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failure = Some(error),
            }
        }
        found.sort_unstable();
        found.dedup();
        match (found.is_empty(), failure) {
            (true, Some(error)) => Err(error),
            (true, None) => Err(io::ErrorKind::NotFound.into()),
            (false, _) => Ok(found),
        }
    }
}

impl FromIterator<(String, u16)> for Places {
    /// Hosts without brackets.
    fn from_iter<I: IntoIterator<Item = (String, u16)>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

/// Host, without the brackets of an IPv6 address, and port of `https://HOST:PORT` and nothing more.
fn place(text: &str) -> Option<(String, u16)> {
    let authority: Authority = text.strip_prefix("https://")?.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    Some((bare.unwrap_or(host).to_owned(), authority.port_u16()?))
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (host, port)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "," };
            match host.contains(':') {
                true => write!(f, "{separator}https://[{host}]:{port}")?,
                false => write!(f, "{separator}https://{host}:{port}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_hosts_lose_their_brackets() {
        for text in [
            "https://c.example:7",
            "https://[::1]:7",
            "https://a:1,https://10.0.0.1:2",
        ] {
            assert_eq!(Places::parse(text).unwrap().to_string(), text);
        }
        let one = Places::parse("https://[::1]:7").unwrap();
        assert_eq!(one.0, [("::1".to_owned(), 7)]);
        for wrong in [
            "",
            "a:1",
            "http://a:1",
            "https://a",
            "https://a:1/x",
            "https://a:99999",
            "https://u@a:1",
            "https://",
            "https://a:1,",
            "https://a:1,unix:/b",
        ] {
            assert_eq!(Places::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hosts_that_no_certificate_names_are_faults() {
        let error = Places::parse("https://a:1,https://a..b:1").unwrap();
        let error = error.controllers().unwrap_err().to_string();
        assert!(error.contains("'a..b'"), "{error}");
    }

    #[tokio::test]
    async fn each_place_brings_its_addresses() {
        let places = Places::parse("https://127.0.0.2:1,https://no.such.host.invalid:1").unwrap();
        let found = places.addresses().await.unwrap();
        assert_eq!(found, ["127.0.0.2:1".parse().unwrap()]);
        let none = Places::parse("https://no.such.host.invalid:1").unwrap();
        assert!(none.addresses().await.is_err());
    }
}
