//! A reactor for Linux.
