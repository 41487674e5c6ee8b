//! URI references: what they name, seen from a target URI. RFC 3986 §5.

use crate::message::percent::encode;
use crate::message::target::{split_authority, without_userinfo};

/// Resolves a URI reference against an absolute http URI (RFC 3986 §5.2); `None` if the result is not
/// an http or https URI.
pub fn resolve(base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, rest) = base.split_once("://")?;
    let (authority, base_path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let base_path = base_path.split('?').next().unwrap_or_default();
    // §5.2.2 in its order; each branch takes less from the base than the one after it. A colon alone
    // makes no scheme: `/a?u=http://b` is a path.
    let full = if let Some((scheme, _)) = reference.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        reference.to_string()
    } else if let Some(rest) = reference.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{}", without_dots(reference))
    } else if reference.is_empty() {
        // The query is the base's, too; only a fragment is not inherited.
        base.split('#').next().unwrap_or_default().to_string()
    } else if reference.starts_with('?') {
        let path = if base_path.is_empty() { "/" } else { base_path };
        format!("{scheme}://{authority}{path}{reference}")
    } else {
        let folder = &base_path[..base_path.rfind('/').map_or(0, |slash| slash + 1)];
        let folder = if folder.is_empty() { "/" } else { folder };
        format!("{scheme}://{authority}{}", without_dots(&format!("{folder}{reference}")))
    };
    let scheme_end = full.find("://")?;
    let known = ["http", "https"].iter().any(|name| full[..scheme_end].eq_ignore_ascii_case(name));
    // `javascript:` and the like are no URIs that a cache could hold.
    known.then(|| encode(&full))
}

/// Takes dot segments out of a path (RFC 3986 §5.2.4); what follows `?` stays.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            // A dot segment at the end leaves a slash: `/a/..` is `/`.
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// The absolute URI `uri` with scheme, host and port written as in `like`; `None` if they are not the
/// same ones.
pub fn written_like(uri: &str, like: &str) -> Option<String> {
    let parts = |uri: &str| {
        let (scheme, rest) = uri.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, port) = split_authority(without_userinfo(&rest[..end])?)?;
        let usual = if scheme == "https" { 443 } else { 80 };
        let path_at = uri.len() - rest.len() + end;
        Some(((scheme, host.into_owned(), port.unwrap_or(usual)), path_at))
    };
    // `like` may have a mark of what was believed in front of its host, as user information
    // (`policy::key`): the result has it, too.
    let ((own, path_at), (other, other_path_at)) = (parts(uri)?, parts(like)?);
    (own == other).then(|| format!("{}{}", &like[..other_path_at], &uri[path_at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        let base = "http://a/b/c/d;p?q";
        #[rustfmt::skip]
        let table = [
            ("g", "http://a/b/c/g"), ("./g", "http://a/b/c/g"), ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"), ("//g", "http://g"), ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"), ("", "http://a/b/c/d;p?q"), ("#s", "http://a/b/c/d;p?q"), (".", "http://a/b/c/"),
            ("..", "http://a/b/"), ("../g", "http://a/b/g"), ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"), ("/../g", "http://a/g"), ("https://x/y", "https://x/y"),
            ("g#s", "http://a/b/c/g"), ("a b", "http://a/b/c/a%20b"),
        ];
        for (reference, expected) in table {
            let resolved = resolve(base, reference);
            assert_eq!(resolved.as_deref(), Some(expected), "RFC 3986 §5.4: {reference}");
        }
        assert_eq!(resolve(base, "ftp://x/"), None);
    }

    #[test]
    fn uris_of_one_server_can_be_written_alike() {
        let like = |uri| written_like(uri, "http://o:80/x?y");
        assert_eq!(like("HTTP://O/a?b").as_deref(), Some("http://o:80/a?b"));
        assert_eq!(like("http://o").as_deref(), Some("http://o:80"));
        for other in ["https://o/a", "http://o:81/a", "http://p/a", "/a", "http://"] {
            assert_eq!(like(other), None, "{other}");
        }
    }
}
