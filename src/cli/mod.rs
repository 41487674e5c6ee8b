//! The command line and the environment, and the texts about them.
//!
//! `flags.rs` and `commands.rs` are the two tables: everything that a text says of a flag or a command comes
//! from there. `parse.rs` finds out which words were given (`arguments.rs` for flags, `task.rs` for commands);
//! shape only: no value is read, no file opened, no name resolved, so that `--help` and a typing error answer
//! at once. `config.rs` reads the values. `help.rs` makes the texts, `docs/flags.md` among them; `manual.rs` the
//! manual page; `completions.rs` the scripts for shells.

mod arguments;
mod closest;
mod commands;
mod completions;
pub mod config;
pub mod environment;
mod error;
pub mod features;
mod flags;
pub mod help;
mod manual;
mod parse;
mod task;
pub mod units;
mod values;

pub use arguments::Args;
pub use error::UsageError;
pub use parse::{Command, parse};
pub use task::{StatsForm, Task};
