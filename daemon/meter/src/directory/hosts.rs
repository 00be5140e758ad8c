//! Names of hosts as the directory's file and users write them, and as they are looked up.

use std::net::IpAddr;

use super::Directory;

/// `head` + region + `tail`, below any subdomain if `subdomains`.
#[derive(Clone, Debug)]
pub(super) struct Regional {
    pub(super) head: Box<str>,
    pub(super) cloud: Cloud,
    pub(super) tail: Box<str>,
    pub(super) subdomains: bool,
    pub(super) provider: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Cloud {
    Aws,
    Gcp,
}

impl Regional {
    pub(super) fn matches(&self, host: &str) -> bool {
        let Some(front) = host.strip_suffix(&*self.tail) else { return false };
        if !self.subdomains {
            return front.strip_prefix(&*self.head).is_some_and(is_region);
        }
        // `x.head-region`: the region is what follows the last occurrence of the head.
        let Some((_, region)) = front.rsplit_once(&format!(".{}", self.head)) else { return false };
        is_region(region)
    }
}

/// A host as the directory's file and users write it.
pub(super) enum HostPattern {
    Exact { host: String, port: Option<u16> },
    Domain { domain: String },
    Regional { head: String, cloud: Cloud, tail: String, subdomains: bool },
}

impl HostPattern {
    pub(super) fn parse(text: &str) -> Result<HostPattern, &'static str> {
        if text.contains("://") || text.contains('/') {
            return Err("give a host name, not a URL");
        }
        let (host, port) = split_port(text).ok_or("not a host or host:port")?;
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return Err("is empty");
        }
        if host.len() > Directory::HOST_BYTES_MAX {
            return Err("is longer than 253 bytes");
        }
        if host.parse::<IpAddr>().is_ok() {
            return Ok(HostPattern::Exact { host, port });
        }
        let (subdomains, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host.as_str()),
        };
        for (placeholder, cloud) in [("{aws}", Cloud::Aws), ("{gcp}", Cloud::Gcp)] {
            if let Some((head, tail)) = name.split_once(placeholder) {
                let (head, tail) = (head.to_owned(), tail.to_owned());
                return Ok(HostPattern::Regional { head, cloud, tail, subdomains });
            }
        }
        let label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !label.is_empty() && label.len() <= 63 && label.bytes().all(good)
        };
        if !name.split('.').all(label) {
            return Err("is not a host name; the only wildcard is a leading \"*.\"");
        }
        match subdomains {
            false => Ok(HostPattern::Exact { host, port }),
            true if !name.contains('.') => Err("a wildcard needs a domain of at least two labels"),
            true if port.is_some() => Err("a wildcard cannot have a port"),
            true => Ok(HostPattern::Domain { domain: name.to_owned() }),
        }
    }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address; without the final dot.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?.parse().ok()?))),
        };
    }
    match text.split_once(':') {
        None => Some((text.strip_suffix('.').unwrap_or(text), None)),
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host.strip_suffix('.').unwrap_or(host), Some(port.parse().ok()?))),
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Words with a dash between them: `us-east-1`, `europe-west4`.
pub(super) fn is_region(label: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    label.contains('-') && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(good)
}

pub(super) fn kernel_key(name: &str, end: u8) -> Vec<u8> {
    let mut key: Vec<u8> = name.bytes().rev().collect();
    key.push(end);
    key.truncate(Directory::KERNEL_KEY_BYTES);
    key
}
