//! The configuration file.
//!
//! ```text
//! policy least-connections    # or round-robin, the default
//! send-proxy v2               # or v1; default: no header
//! backend 127.0.0.1:9001
//! backend 127.0.0.1:9002 limit 100
//! ```

use std::net::SocketAddr;

use super::backends::{Policy, Target};
use super::proxy_header::ProxyVersion;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) policy: Policy,
    /// Whether back ends get a header of the PROXY protocol.
    pub(crate) send_proxy: Option<ProxyVersion>,
    /// Not empty, and no address occurs twice.
    pub(crate) targets: Vec<Target>,
}

impl Config {
    /// Parses one setting a line. Empty lines, and what follows a `#`, are ignored.
    ///
    /// # Errors
    /// A message with the number of the line.
    pub(crate) fn parse(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            config.take(&words).map_err(|error| format!("line {}: {error}", number + 1))?;
        }
        if config.targets.is_empty() {
            return Err("there is no back end".to_owned());
        }
        Ok(config)
    }

    fn take(&mut self, words: &[&str]) -> Result<(), String> {
        match *words {
            [] => {}
            ["policy", name] => {
                let message = "is neither `round-robin` nor `least-connections`";
                self.policy = name.parse().map_err(|()| format!("`{name}` {message}"))?;
            }
            ["send-proxy", version] => {
                let version =
                    version.parse().map_err(|()| format!("`{version}` is neither `v1` nor `v2`"))?;
                self.send_proxy = Some(version);
            }
            ["backend", address] => self.add(address, None)?,
            ["backend", address, "limit", limit] => {
                let limit = limit.parse().ok().filter(|&limit| limit > 0);
                self.add(address, Some(limit.ok_or("a limit is a number from 1")?))?;
            }
            [name, ..] => return Err(format!("`{name}` is not a setting, or has other values")),
        }
        Ok(())
    }

    /// Adds a back end.
    ///
    /// # Errors
    /// The text is not an address with a port, or occurs twice.
    pub(crate) fn add(&mut self, text: &str, limit: Option<usize>) -> Result<(), String> {
        let address: SocketAddr = text.parse().map_err(|_| {
            format!("`{text}` is not an address with a port, such as 127.0.0.1:9001 or [::1]:9001")
        })?;
        if self.targets.iter().any(|target| target.address == address) {
            return Err(format!("the back end {address} occurs twice"));
        }
        self.targets.push(Target { address, limit });
        Ok(())
    }
}
