//! What `proxy completions SHELL` prints: scripts that complete commands, their flags and the values of flags.
//!
//! The files in `completions/` say how a shell is told; everything that is told comes from the tables in
//! `flags.rs` and `commands.rs`.

use std::fmt::Write as _;

use crate::cli::commands::{COMMANDS, CommandHelp, Operand};
use crate::cli::flags::{self, Flag, Shape};

/// The shells that there is a script for.
pub(super) const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

const BASH: &str = include_str!("completions/proxy.bash");
const ZSH: &str = include_str!("completions/proxy.zsh");
const FISH: &str = include_str!("completions/proxy.fish");

/// The script for this shell; `None` for other words.
pub(super) fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// A flag that is offered, and what it means there.
struct Offered {
    flag: &'static Flag,
    meaning: &'static str,
}

/// What completes the value of a flag.
enum FlagValues {
    /// It has none.
    None,
    /// These words.
    Words(&'static [&'static str]),
    /// The names of files.
    Files,
    /// Only the user knows.
    Any,
}

impl FlagValues {
    fn of(flag: &Flag) -> Self {
        match flag.shape {
            Shape::Action | Shape::Switch => Self::None,
            Shape::Choice(words) => Self::Words(words),
            Shape::Store => Self::Words(&["memory", "sqlite"]),
            Shape::File => Self::Files,
            Shape::Number(..) | Shape::Size(..) | Shape::Duration(_) | Shape::Text(_) => Self::Any,
        }
    }
}

/// The flags that are offered where the program's own flags are.
fn general() -> Vec<Offered> {
    flags::all().map(|flag| Offered { flag, meaning: flag.short }).collect()
}

/// The flags that are offered behind the name of a command. It takes all others, too, but hardly anybody
/// looks for them there.
fn offered(command: &'static CommandHelp) -> Vec<Offered> {
    let own = command.flags.iter().map(|flag| Offered { flag, meaning: flag.short });
    // With --origin a proxy is described that has any flags: all of them count.
    if command.name == "explain" {
        return own.chain(general()).collect();
    }
    let name = |usage: &'static str| usage.split(' ').next().unwrap_or_default();
    let general = command
        .general
        .iter()
        .map(|(usage, meaning)| Offered { flag: flags::find(name(usage)), meaning });
    let help = Offered { flag: flags::find("--help"), meaning: "how this command is used" };
    own.chain(general).chain([help]).collect()
}

fn command_names() -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).collect()
}

/// The names of flags, in one line.
fn names(offered: &[Offered], between: &str) -> String {
    offered.iter().map(|one| one.flag.name).collect::<Vec<_>>().join(between)
}

fn bash() -> String {
    let own = COMMANDS.iter().flat_map(|command| command.flags);
    let with_values: Vec<&Flag> = flags::all().chain(own).filter(|flag| !flag.is_alone()).collect();
    let mut values = String::new();
    for flag in &with_values {
        let action = match FlagValues::of(flag) {
            FlagValues::Words(words) => format!("_proxy_words '{}'; ", words.join(" ")),
            FlagValues::Files => "_proxy_files; ".to_string(),
            FlagValues::None | FlagValues::Any => String::new(),
        };
        let _ = writeln!(values, "        {}) {action}return ;;", flag.name);
    }
    let names_with_values: Vec<&str> = with_values.iter().map(|flag| flag.name).collect();
    let (all, commands) = (names(&general(), " "), command_names().join(" "));
    let mut words = format!("        '') flags='{all} -h -V' words='{commands}' ;;\n");
    for command in &COMMANDS {
        let operands = match command.operand {
            Operand::None | Operand::Url => String::new(),
            Operand::File => " files=1".to_string(),
            Operand::Choice(words) => format!(" words='{}'", words.join(" ")),
            Operand::Command => format!(" words='{commands}'"),
        };
        let (name, flags) = (command.name, names(&offered(command), " "));
        let _ = writeln!(words, "        {name}) flags='{flags}'{operands} ;;");
    }
    BASH.replace("@VALUES@\n", &values)
        .replace("@FLAGS_WITH_VALUES@", &names_with_values.join("|"))
        .replace("@COMMANDS@", &command_names().join("|"))
        .replace("@WORDS@\n", &words)
}

/// A text in single quotes, in which `_arguments` of zsh reads brackets and colons.
fn zsh_text(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\'' => out.push_str("'\\''"),
            '[' | ']' | ':' | '\\' => out.extend(['\\', letter]),
            _ => out.push(letter),
        }
    }
    out
}

/// The specification of a flag for `_arguments`.
fn zsh_flag(Offered { flag, meaning }: &Offered) -> String {
    let times = if flag.is_repeated { "*" } else { "" };
    // A flag with one hyphen takes its value as `-j8`, too, and one with two as `--port=1`.
    let joint = match flag.is_alone() {
        true => "",
        false if flag.name.starts_with("--") => "=",
        false => "+",
    };
    let label = zsh_text(flag.value.trim_matches('\''));
    let value = match FlagValues::of(flag) {
        FlagValues::None => String::new(),
        FlagValues::Words(words) => format!(":{label}:({})", words.join(" ")),
        FlagValues::Files => format!(":{label}:_files"),
        FlagValues::Any => format!(":{label}: "),
    };
    format!("'{times}{}{joint}[{}]{value}'", flag.name, zsh_text(meaning))
}

fn zsh() -> String {
    let mut commands = String::new();
    let mut words = String::new();
    for command in &COMMANDS {
        let _ = writeln!(commands, "        '{}:{}'", command.name, zsh_text(command.summary));
        let operand = match command.operand {
            Operand::None => None,
            Operand::Url => Some("'1:URL: '".to_string()),
            Operand::File => Some("'1:FILE:_files'".to_string()),
            Operand::Choice(words) => Some(format!("'1:word:({})'", words.join(" "))),
            Operand::Command => Some(format!("'1:command:({})'", command_names().join(" "))),
        };
        let all = offered(command).iter().map(zsh_flag).chain(operand).collect::<Vec<_>>();
        let all = all.join(" \\\n                        ");
        let _ = writeln!(
            words,
            "                {})\n                    _arguments \\\n                        {all}\n                    ;;",
            command.name
        );
    }
    let mut flags: Vec<String> = general().iter().map(zsh_flag).collect();
    flags.extend(["'-h[the twelve flags used most]'", "'-V[the version]'"].map(str::to_string));
    let flags = format!("        {} \\\n", flags.join(" \\\n        "));
    ZSH.replace("@COMMANDS@\n", &commands).replace("@FLAGS@\n", &flags).replace("@WORDS@\n", &words)
}

/// A text in single quotes, as fish reads it.
fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// The line that tells fish of a flag, under this condition.
fn fish_flag(condition: &str, Offered { flag, meaning }: &Offered) -> String {
    let name = match flag.name.strip_prefix("--") {
        Some(name) => format!("-l {name}"),
        None => format!("-s {}", flag.name.trim_start_matches('-')),
    };
    let value = match FlagValues::of(flag) {
        FlagValues::None => String::new(),
        FlagValues::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        FlagValues::Files => " -r -F".to_string(),
        FlagValues::Any => " -x".to_string(),
    };
    format!("complete -c proxy -n {condition} {name}{value} -d '{}'\n", fish_text(meaning))
}

fn fish() -> String {
    // In double quotes: fish puts the list there while it reads the script.
    let no_command = "\"not __fish_seen_subcommand_from $commands\"";
    let mut lines = String::new();
    for command in &COMMANDS {
        let (name, summary) = (command.name, fish_text(command.summary));
        let _ = writeln!(lines, "complete -c proxy -n {no_command} -a {name} -d '{summary}'");
    }
    lines.extend(general().iter().map(|one| fish_flag(no_command, one)));
    for (letter, meaning) in [("h", "the twelve flags used most"), ("V", "the version")] {
        let _ = writeln!(lines, "complete -c proxy -n {no_command} -s {letter} -d '{meaning}'");
    }
    for command in &COMMANDS {
        let condition = format!("'__fish_seen_subcommand_from {}'", command.name);
        let operand = match command.operand {
            Operand::None | Operand::Url => None,
            Operand::File => Some("-F".to_string()),
            Operand::Choice(words) => Some(format!("-a '{}'", words.join(" "))),
            Operand::Command => Some("-a \"$commands\"".to_string()),
        };
        if let Some(operand) = operand {
            let _ = writeln!(lines, "complete -c proxy -n {condition} {operand}");
        }
        lines.extend(offered(command).iter().map(|one| fish_flag(&condition, one)));
    }
    FISH.replace("@COMMANDS@", &command_names().join(" ")).replace("@LINES@\n", &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_every_command_and_every_flag() {
        let own = COMMANDS.iter().flat_map(|command| command.flags);
        let flags: Vec<&str> = flags::all().chain(own).map(|flag| flag.name).collect();
        assert!(flags.len() > 60, "the table was not read: {flags:?}");
        for shell in SHELLS {
            let script = script(shell).expect("one for each shell");
            let words: Vec<&str> =
                script.split([' ', '\'', '[', '=', '*', ':', '+', '\n']).collect();
            for name in command_names() {
                assert!(words.contains(&name), "{shell}: {name}");
            }
            for name in &flags {
                let name = if shell == "fish" { name.trim_start_matches('-') } else { name };
                assert!(words.contains(&name), "{shell}: {name}");
            }
            let is_left = |part: &str| part.starts_with(|first: char| first.is_ascii_uppercase());
            assert!(!script.split('@').skip(1).any(is_left), "{shell}: a part is not filled in");
        }
        assert_eq!(script("tcsh"), None);
    }

    #[test]
    fn texts_cannot_end_their_quotes() {
        let hostile = r"it's [a] \b: $(c) `d`";
        assert_eq!(zsh_text(hostile), r"it'\''s \[a\] \\b\: $(c) `d`");
        assert_eq!(fish_text(hostile), r"it\'s [a] \\b: $(c) `d`");
    }
}
