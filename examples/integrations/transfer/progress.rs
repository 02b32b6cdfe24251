//! What the user sees: a bar if standard error is a terminal, and messages.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::protocol::Name;

const TEMPLATE: &str = "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {wide_msg}";

pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let bar = if io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        match ProgressStyle::with_template(TEMPLATE) {
            Ok(style) => bar.set_style(style),
            Err(error) => log::error!("the template of the bar: {error}"),
        }
        Progress { bar }
    }

    /// The number of bytes of all files.
    pub(crate) fn set_length(&self, length: u64) {
        self.bar.set_length(length);
    }

    /// The number of bytes that are complete, and the file that is being transferred.
    pub(crate) fn set(&self, bytes: u64, name: &Name) {
        self.bar.set_position(bytes);
        let name = name.encode();
        if self.bar.message() != name {
            self.bar.set_message(name);
        }
    }

    /// Prints a line.
    pub(crate) fn report(&self, message: &str) {
        self.bar.suspend(|| _ = writeln!(io::stderr(), "transfer: {message}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
