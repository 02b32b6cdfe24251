//! The command `stats` of both protocols.

use std::process;

use super::super::protocol::binary::{Request, Status};
use super::binary::report;
use super::{Commands, VERSION};

type Rows = Vec<(&'static str, String)>;

/// What a `stats` command returns.
enum Stats {
    Rows(Rows),
    Reply(&'static str),
    /// The arguments are wrong.
    Usage(&'static str),
    /// There is no such command.
    Unknown,
}

impl Commands {
    pub(super) fn text_stats(&self, now: u32, name: &[u8], argument: &[u8], bytes: &mut Vec<u8>) {
        match self.stats(now, name, argument) {
            Stats::Rows(rows) => {
                for (name, value) in rows {
                    bytes.extend_from_slice(format!("STAT {name} {value}\r\n").as_bytes());
                }
                bytes.extend_from_slice(b"END\r\n");
            }
            Stats::Reply(reply) | Stats::Usage(reply) => {
                bytes.extend_from_slice(format!("{reply}\r\n").as_bytes());
            }
            Stats::Unknown => bytes.extend_from_slice(b"ERROR\r\n"),
        }
    }

    pub(super) fn binary_stats(&self, now: u32, request: &Request<'_>, bytes: &mut Vec<u8>) {
        let mut words = request.key.splitn(2, |&byte| byte == b' ');
        let (name, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rows = match self.stats(now, name, argument) {
            Stats::Rows(rows) => rows,
            Stats::Reply(_) => Rows::new(),
            Stats::Unknown | Stats::Usage(_) => return report(request, Status::NotFound, bytes),
        };
        for (name, value) in rows {
            request.push_header(bytes, Status::Success, 0, name.len(), value.len(), 0);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        // The end.
        request.push_header(bytes, Status::Success, 0, 0, 0, 0);
    }

    fn stats(&self, now: u32, name: &[u8], argument: &[u8]) -> Stats {
        match name {
            b"" => Stats::Rows(self.general(now)),
            b"settings" => Stats::Rows(self.settings()),
            b"reset" => {
                self.table.reset_counters();
                Stats::Reply("RESET")
            }
            // There are no classes of slabs, and sizes are not recorded.
            b"items" | b"slabs" | b"sizes" | b"conns" => Stats::Rows(Rows::new()),
            b"detail" => match argument {
                // Details by prefixes of keys are not recorded.
                b"on" | b"off" => Stats::Reply("OK"),
                b"dump" => Stats::Reply("END"),
                _ => Stats::Usage("CLIENT_ERROR usage: stats detail on|off|dump"),
            },
            _ => Stats::Unknown,
        }
    }

    fn general(&self, now: u32) -> Rows {
        let (counters, items) = self.table.counters();
        let server = self.server.get();
        let memory = self.table.memory();
        let mut rows = vec![
            ("pid", process::id().to_string()),
            // The clock begins with 2.
            ("uptime", (now - 2).to_string()),
            ("time", self.clock.unix(now).to_string()),
            ("version", VERSION.to_owned()),
            ("pointer_size", usize::BITS.to_string()),
            ("curr_connections", server.map_or(0, |server| server.open_connections()).to_string()),
            ("total_connections", server.map_or(0, |server| server.counters().accepted).to_string()),
            ("curr_items", items.to_string()),
            ("bytes", memory.used().to_string()),
            ("limit_maxbytes", memory.limit().to_string()),
            ("threads", self.threads.to_string()),
        ];
        rows.extend(counters.iter().map(|(name, number)| (name, number.to_string())));
        rows
    }

    fn settings(&self) -> Rows {
        vec![
            ("maxbytes", self.table.memory().limit().to_string()),
            ("item_size_max", self.table.max_value().to_string()),
            ("num_threads", self.threads.to_string()),
            ("evictions", "on".to_owned()),
            ("cas_enabled", "yes".to_owned()),
            ("flush_enabled", "yes".to_owned()),
            ("binding_protocol", "auto-negotiate".to_owned()),
        ]
    }
}
