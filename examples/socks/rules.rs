//! The rules that decide which destinations clients may reach.
//!
//! ```text
//! # The first rule that matches decides. Without a match, the destination is allowed.
//! allow 127.0.0.1 8080
//! deny 127.0.0.0/8
//! deny ::1
//! deny all 25
//! ```

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::network::{Network, effective};

/// An ordered list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allows: bool,
    /// All networks if there is none.
    network: Option<Network>,
    ports: RangeInclusive<u16>,
}

impl Rules {
    /// Parses one rule a line. Empty lines, and what follows a `#`, are ignored.
    ///
    /// # Errors
    /// A message with the number of the line.
    pub(crate) fn parse(text: &str) -> Result<Rules, String> {
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            if !words.is_empty() {
                rules.push(rule(&words).map_err(|error| format!("line {}: {error}", number + 1))?);
            }
        }
        Ok(Rules(rules))
    }

    /// Whether clients may reach `to`. Without a rule that matches, they may.
    pub(crate) fn allow(&self, to: SocketAddr) -> bool {
        let ip = effective(to.ip());
        let matching = |rule: &&Rule| {
            rule.network.is_none_or(|network| network.contains(ip)) && rule.ports.contains(&to.port())
        };
        self.0.iter().find(matching).is_none_or(|rule| rule.allows)
    }
}

fn rule(words: &[&str]) -> Result<Rule, String> {
    let (verdict, network, ports) = match *words {
        [verdict, network] => (verdict, network, None),
        [verdict, network, ports] => (verdict, network, Some(ports)),
        _ => return Err("a rule is `allow` or `deny`, a network, and possibly ports".to_owned()),
    };
    let allows = match verdict {
        "allow" => true,
        "deny" => false,
        _ => return Err(format!("`{verdict}` is neither `allow` nor `deny`")),
    };
    let network = if network == "all" { None } else { Some(network.parse()?) };
    let ports = match ports {
        None => 0..=u16::MAX,
        Some(text) => range(text).ok_or_else(|| format!("`{text}` is not a port or a range of ports"))?,
    };
    Ok(Rule { allows, network, ports })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}
