//! The environment: which variable sets the default of which flag.
//!
//! The names begin with `CACHING_PROXY_`, for `PROXY_` is not the program's own: Kubernetes sets
//! `PROXY_PORT=tcp://10.0.0.1:3000` in every container beside a Service that is named proxy, and base
//! images set `PROXY_HOST`.

use std::ffi::{OsStr, OsString};

use crate::cli::closest::closest;
use crate::cli::flags::{self, Flag, Shape};

/// What the names of all variables begin with.
const BEGINNING: &str = "CACHING_PROXY_";
/// What they began with before; read for one more release.
const OLD_BEGINNING: &str = "PROXY_";
/// Flags whose old variables others set for purposes of their own.
const OTHERS: [&str; 3] = ["--host", "--port", "--origin"];

/// What the environment has for one flag.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Variable {
    /// The value, and the name of the variable.
    pub value: Option<(OsString, String)>,
    /// A warning for the user, in one line: the variable is ignored, or will be.
    pub note: Option<String>,
}

/// The name of the variable that sets a flag's default, `CACHING_PROXY_CACHE_TTL` for `--cache-ttl`; `None` for
/// flags that say what to do, not how: images set `CACHING_PROXY_VERSION`, say.
pub(super) fn variable_name(flag: &Flag) -> Option<String> {
    let is_action = matches!(flag.shape, Shape::Action);
    (!is_action).then(|| name_after(BEGINNING, flag.name))
}

fn name_after(beginning: &str, flag: &str) -> String {
    let name = flag.trim_start_matches('-').replace('-', "_");
    format!("{beginning}{}", name.to_ascii_uppercase())
}

/// Looks for the default of a flag, under the new name and then under the old one.
pub(super) fn find(flag: &Flag, variable: impl Fn(&str) -> Option<OsString>) -> Variable {
    // An empty variable is none: compose files and units set variables that have no value.
    let Some(name) = variable_name(flag) else { return Variable::default() };
    let (flag, old) = (flag.name, name_after(OLD_BEGINNING, flag.name));
    let read = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(value) = read(&name) {
        // A start that failed here would fail only in a cluster, and only beside a Service of that name.
        if flag == "--port" && is_a_services(&value) {
            let note =
                format!("{name}: ignored; it is the address of a Kubernetes Service, not a port");
            return Variable { value: None, note: Some(note) };
        }
        return Variable { value: Some((value, name)), note: None };
    }
    let Some(value) = read(&old) else { return Variable::default() };
    // Ignored aloud: somebody may have set it for us, and would wonder.
    if OTHERS.contains(&flag) {
        let note = format!("{old}: ignored, for other programs set it too; use {name} or {flag}");
        return Variable { value: None, note: Some(note) };
    }
    let note = format!("{old}: is read for one more release; use {name}");
    Variable { value: Some((value, old)), note: Some(note) }
}

/// A line for each variable that is meant for this program and that no flag has: it would be ignored in silence.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let known: Vec<String> = flags::all().filter_map(variable_name).collect();
    let note = |name: &str| {
        let rest = name.strip_prefix(BEGINNING)?;
        // Kubernetes sets these for a Service that is named caching-proxy.
        let is_a_services = rest.starts_with("SERVICE_") || rest.starts_with("PORT_");
        let is_action = flags::all().any(|flag| name_after(BEGINNING, flag.name) == name);
        if is_a_services || is_action || known.iter().any(|known| known == name) {
            return None;
        }
        let meant = closest(name, known.iter()).map_or_else(
            || "see docs/flags.md".to_string(),
            |meant| format!("did you mean {meant}?"),
        );
        Some(format!("{name}: ignored, for no flag has it; {meant}"))
    };
    let mut notes: Vec<_> = names.filter_map(|name| note(name.to_str()?)).collect();
    notes.sort_unstable();
    notes
}

/// Kubernetes sets `CACHING_PROXY_PORT` for a Service that is named caching-proxy, to an address.
fn is_a_services(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_no_flag_has_is_named() {
        let names = [
            "CACHING_PROXY_ORIGN",
            "CACHING_PROXY_NONSENSE",
            "CACHING_PROXY_ORIGIN",
            "CACHING_PROXY_VERSION",
            "CACHING_PROXY_PORT_3000_TCP",
            "CACHING_PROXY_SERVICE_HOST",
            "PROXY_NONSENSE",
            "HOME",
        ];
        let notes = unknown_variables(names.into_iter().map(OsString::from));
        assert_eq!(
            notes,
            [
                "CACHING_PROXY_NONSENSE: ignored, for no flag has it; see docs/flags.md",
                "CACHING_PROXY_ORIGN: ignored, for no flag has it; did you mean CACHING_PROXY_ORIGIN?",
            ]
        );
    }

    #[test]
    fn a_variable_counts_under_its_own_name_and_for_a_while_under_the_old_one() {
        // The flag, the variables, what is read from which, and how the note begins.
        type Row<'a> =
            (&'static str, &'a [(&'a str, &'a str)], Option<(&'a str, &'a str)>, &'a str);
        #[rustfmt::skip]
        let table: [Row<'_>; 12] = [
            ("--port",        &[("CACHING_PROXY_PORT", "1")],                  Some(("1", "CACHING_PROXY_PORT")), ""),
            ("--port",        &[("PROXY_PORT", "tcp://10.0.0.1:3000")],        None, "PROXY_PORT: ignored"),
            ("--port",        &[("PROXY_PORT", "3000")],                       None, "PROXY_PORT: ignored"),
            ("--port",        &[("CACHING_PROXY_PORT", "tcp://10.0.0.1:80")],  None, "CACHING_PROXY_PORT: ignored"),
            ("--port",        &[("CACHING_PROXY_PORT", "1"), ("PROXY_PORT", "2")], Some(("1", "CACHING_PROXY_PORT")), ""),
            ("--host",        &[("PROXY_HOST", "squid.internal")],             None, "PROXY_HOST: ignored"),
            ("--origin",      &[("PROXY_ORIGIN", "x")],                        None, "PROXY_ORIGIN: ignored"),
            ("--cache-ttl",   &[("PROXY_CACHE_TTL", "2")],                     Some(("2", "PROXY_CACHE_TTL")), "PROXY_CACHE_TTL: is read for one more"),
            ("--cache-ttl",   &[("CACHING_PROXY_CACHE_TTL", ""), ("PROXY_CACHE_TTL", "2")], Some(("2", "PROXY_CACHE_TTL")), "PROXY_CACHE_TTL: is"),
            ("--cache-ttl",   &[("PROXY_CACHE_TTL", "")],                      None, ""),
            ("--version",     &[("PROXY_VERSION", "1.27"), ("CACHING_PROXY_VERSION", "1.0")], None, ""),
            ("--clear-cache", &[("CACHING_PROXY_CLEAR_CACHE", "1")],           None, ""),
        ];
        for (flag, variables, value, note) in table {
            let found = find(flags::find(flag), |name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            });
            let value = value.map(|(value, name)| (OsString::from(value), name.to_string()));
            assert_eq!(found.value, value, "{flag} {variables:?}");
            let told = found.note.unwrap_or_default();
            assert!(told.starts_with(note) && told.is_empty() == note.is_empty(), "{told}");
        }
    }
}
