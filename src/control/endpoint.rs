//! One end of a packet as users write it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address, with a port where the protocol has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

/// The text is no `IP`, `IP:PORT` or `[IPv6]:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address; write IP or IP:PORT, and [IPv6]:PORT for IPv6 with a port")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(Self {
                address,
                port: None,
            });
        }
        if let Some(address) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let address: Ipv6Addr = address.parse().ok().ok_or_else(error)?;
            return Ok(Self {
                address: address.into(),
                port: None,
            });
        }
        let (address, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().ok_or_else(error)?;
        let address = match address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(v6) => IpAddr::V6(v6.parse().ok().ok_or_else(error)?),
            None => IpAddr::V4(address.parse().ok().ok_or_else(error)?),
        };
        Ok(Self {
            address,
            port: Some(port),
        })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_and_write_alike() {
        for text in [
            "10.0.0.1",
            "10.0.0.1:80",
            "2001:db8::1",
            "[2001:db8::1]:443",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let bracketed: Endpoint = "[2001:db8::1]".parse().unwrap();
        assert_eq!(bracketed.to_string(), "2001:db8::1");
        for text in [
            "",
            "10.0.0",
            "10.0.0.1:",
            "10.0.0.1:65536",
            "[10.0.0.1]:80",
            "host:80",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
