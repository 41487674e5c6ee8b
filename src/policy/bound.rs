//! Authentication that holds for a connection, not for a request: NTLM, and Negotiate in practice.
//! RFC 4559 §6, RFC 9110 §7.4 (each request is to be understood by itself).
//!
//! Once such a connection has been authenticated, the origin server takes whatever comes over it for
//! the same user's. So a connection that has seen such a challenge or such credentials is used for
//! nobody else.

use http::HeaderName;
use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};

use crate::message::fields::{Fields, list_members};

/// The fields that challenges and credentials stand in (RFC 9110 §11.6, §11.7).
const FIELDS: [HeaderName; 4] =
    [WWW_AUTHENTICATE, PROXY_AUTHENTICATE, AUTHORIZATION, PROXY_AUTHORIZATION];
/// The schemes that authenticate connections.
const SCHEMES: [&[u8]; 3] = [b"ntlm", b"negotiate", b"kerberos"];

/// Does this header section, of a request or a response, authenticate the connection it came over, or
/// ask for that? It is enough that one challenge of several does.
pub fn binds_connection(fields: &Fields) -> bool {
    // A challenge with parameters is split at its commas into several members. The scheme stands in the
    // first of them, and that one is enough.
    let binds = |member: &[u8]| {
        let scheme = member.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
    };
    // The client's side counts, too: credentials may go out on a connection whose challenge came over
    // another one.
    //
    // One walk over the lines, since each request and each response is asked about several times.
    let lines = fields.iter().filter(|(name, _)| FIELDS.contains(name));
    lines.flat_map(|(_, value)| list_members(value.as_bytes())).any(binds)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn challenges_and_credentials_that_bind_a_connection_are_known() {
        #[rustfmt::skip]
        let table: [(&[&str], bool); 17] = [
            (&["www-authenticate: NTLM"],                                    true),
            (&["www-authenticate: ntlm TlRMTVNTUAACAAAA"],                   true),
            (&["www-authenticate: Negotiate"],                               true),
            (&["www-authenticate: NEGOTIATE oYG2MIG="],                      true),
            (&["www-authenticate: Kerberos"],                                true),
            (&["www-authenticate: Basic realm=\"a, b\", Negotiate, NTLM"],   true),
            (&["www-authenticate: Basic realm=\"a\"", "www-authenticate: NTLM"], true),
            (&["proxy-authenticate: NTLM"],                                  true),
            (&["proxy-authorization: Negotiate abc"],                        true),
            (&["authorization: NTLM TlRMTVNTUAABAAAA"],                      true),
            (&["authorization: negotiate\tYII="],                            true),
            (&["authorization: Basic YTpi"],                                 false),
            (&["authorization: Bearer NTLM"],                                false),
            (&["www-authenticate: Basic realm=\"NTLM\""],                    false),
            (&["www-authenticate: Basic realm=\"x, NTLM\""],                 false),
            (&["www-authenticate: NTLMish"],                                 false),
            (&["x-authenticate: NTLM"],                                      false),
        ];
        for (lines, expected) in table {
            let fields: Fields = lines
                .iter()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| {
                    (
                        HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                        HeaderValue::from_str(value).expect("a value"),
                    )
                })
                .collect();
            assert_eq!(binds_connection(&fields), expected, "{lines:?}");
        }
    }
}
