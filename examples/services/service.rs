//! The names and the port numbers of the services.

use std::fmt;
use std::str::FromStr;

/// A service. Each is offered over TCP and over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Returns everything (RFC 862).
    Echo,
    /// Reads everything, and sends nothing (RFC 863).
    Discard,
    /// Sends the date and the time as text (RFC 867).
    Daytime,
    /// Sends a quote (RFC 865).
    Qotd,
    /// Sends lines without end; over UDP at most 512 bytes per datagram (RFC 864).
    Chargen,
    /// Sends the seconds since 1900 as four bytes (RFC 868).
    Time,
}

impl Service {
    pub(crate) const ALL: [Service; 6] =
        [Service::Echo, Service::Discard, Service::Daytime, Service::Qotd, Service::Chargen, Service::Time];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Discard => "discard",
            Service::Daytime => "daytime",
            Service::Qotd => "qotd",
            Service::Chargen => "chargen",
            Service::Time => "time",
        }
    }

    /// The port number that the RFC assigns.
    pub(crate) fn assigned_port(self) -> u16 {
        match self {
            Service::Echo => 7,
            Service::Discard => 9,
            Service::Daytime => 13,
            Service::Qotd => 17,
            Service::Chargen => 19,
            Service::Time => 37,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = ();

    fn from_str(name: &str) -> Result<Service, ()> {
        Service::ALL.into_iter().find(|service| service.name() == name).ok_or(())
    }
}
