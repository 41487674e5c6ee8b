//! What is made for one user is given to others only where the origin server or the operator says so.
//! RFC 9111 §3.5, and the same for credentials that HTTP does not know.

use super::support::engine::bench;
use super::support::origin::{Gate, Origin, on};
use super::support::proxy::{Proxy, run};
use super::support::{PATIENCE, TemporaryFolder};

/// Fields that carry credentials or name a tenant, and what `Cache-Status` says of them.
const FIELDS: [(&str, &str); 14] = [
    ("Authorization", "authorization"),
    ("Cookie", "cookie"),
    ("X-API-Key", "credentials"),
    ("api-key", "credentials"),
    ("X_API_KEY", "credentials"),
    ("X-Goog-Api-Key", "credentials"),
    ("X-Auth-Token", "credentials"),
    ("X-Access-Token", "credentials"),
    ("PRIVATE-TOKEN", "credentials"),
    ("X-Amz-Security-Token", "credentials"),
    ("Ocp-Apim-Subscription-Key", "credentials"),
    ("Proxy-Authorization", "credentials"),
    ("X-Tenant", "credentials"),
    ("X-Tenant-Id", "credentials"),
];

/// Parameters that are, or sign, credentials.
const SIGNED: [&str; 5] =
    ["X-Amz-Signature=1", "Signature=1", "sig=1&se=2", "token=1", "a=b&%74oken=1"];

#[test]
fn without_explicit_freshness_nothing_is_shared_by_those_with_credentials() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    for (name, detail) in FIELDS {
        for (number, fields) in ["", "Last-Modified: DATE-864000", "ETag: \"a\""].iter().enumerate()
        {
            let target = format!("/{name}/{number}");
            for body in ["alice's", "bob's", "everybody's", "alice's again"] {
                origin.add(on(&format!("GET {target}")).send(200, fields, body));
            }
            let told = format!("fwd-status=200; detail={detail}");
            for (value, body) in [("alice", "alice's"), ("bob", "bob's")] {
                let reply = proxy.get_with(&target, &format!("{name}: {value}\r\n"));
                assert_eq!(reply.body(), body, "{target}");
                assert!(reply.cache_status().ends_with(&told), "{}", reply.cache_status());
            }
            assert_eq!(proxy.get(&target).body(), "everybody's", "{target}");
            assert!(proxy.get(&target).is_hit(), "{target}");
            // Nor are those with credentials given what was made for those without.
            let reply = proxy.get_with(&target, &format!("{name}: alice\r\n"));
            assert_eq!(reply.body(), "alice's again", "{target}");
            assert!(reply.cache_status().ends_with(&told), "{}", reply.cache_status());
            assert_eq!(proxy.get(&target).body(), "everybody's", "and that stays: {target}");
        }
    }
    origin.assert_finished();
}

/// Explicit freshness is the origin server's word that it may be shared; for `Authorization` it takes
/// more (§3.5).
#[test]
fn explicit_freshness_shares_what_credentials_brought() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    for (name, _) in FIELDS {
        let target = format!("/{name}");
        let asked = on(&format!("GET {target}"));
        origin.add(asked.clone().send(200, "Cache-Control: max-age=60", "1"));
        origin.add(asked.send(200, "Cache-Control: max-age=60, public", "2"));
        proxy.get_with(&target, &format!("{name}: alice\r\n"));
        let second = proxy.get_with(&target, &format!("{name}: bob\r\n"));
        assert_eq!(second.is_hit(), name != "Authorization", "{name}");
        assert!(proxy.get_with(&target, &format!("{name}: carol\r\n")).is_hit(), "{name}");
        assert!(proxy.get(&target).is_hit(), "{name}");
    }
}

#[test]
fn without_explicit_freshness_a_signed_uri_is_not_stored() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &[]);
    for query in SIGNED {
        let target = format!("/a?{query}");
        origin.add(on("GET *any*").send(200, "", "1"));
        origin.add(on("GET *any*").send(200, "Cache-Control: max-age=60", "2"));
        let first = proxy.get(&target);
        assert!(first.cache_status().ends_with("detail=credentials"), "{}", first.cache_status());
        assert_eq!(proxy.get(&target).body(), "2", "{query}");
        assert!(proxy.get(&target).is_hit(), "{query}: explicit freshness is enough");
    }
    // What does not reach the origin server signs nothing.
    let origin = Origin::script([on("GET /a").send(200, "", "1")]);
    let proxy = Proxy::before(&origin, &["--ignore-param", "token"]);
    proxy.get("/a?token=1");
    assert!(proxy.get("/a?token=2").is_hit());
}

#[test]
fn shared_credentials_are_as_if_they_were_not_there() {
    let origin = Origin::script([]);
    let proxy = Proxy::before(&origin, &["--share-credentials"]);
    for (name, _) in FIELDS {
        for (number, fields) in ["", "Cache-Control: max-age=60"].iter().enumerate() {
            let target = format!("/{name}/{number}");
            origin.add(on(&format!("GET {target}")).send(200, fields, "hello"));
            assert!(!proxy.get_with(&target, &format!("{name}: alice\r\n")).is_hit());
            assert!(proxy.get_with(&target, &format!("{name}: bob\r\n")).is_hit(), "{name}");
            assert!(proxy.get(&target).is_hit(), "{name}");
        }
    }
    proxy.wait_for_log("--share-credentials: ");
    for query in SIGNED {
        let target = format!("/a?{query}");
        origin.add(on("GET *any*").send(200, "", "1").times(2));
        proxy.get(&target);
        assert!(proxy.get(&target).is_hit(), "{query}");
        assert!(!proxy.get(&format!("{target}2")).is_hit(), "it stays in the key");
    }
}

/// What the origin server forbids stays forbidden.
#[test]
fn shared_credentials_share_nothing_that_is_private() {
    #[rustfmt::skip]
    let table = [
        ("Cache-Control: private, max-age=60",              false),
        ("Cache-Control: no-store",                         false),
        ("Vary: *",                                         false),
        ("Set-Cookie: a=b",                                 false),
        ("Set-Cookie: a=b; Cache-Control: max-age=60",      false),
        ("Set-Cookie: a=b; Cache-Control: s-maxage=60",     true),
    ];
    for (fields, shared) in table {
        let bench = bench(|settings| settings.reuse.share_credentials = true);
        bench.answers(200, fields, "1").answers(200, fields, "2");
        bench.get_with("/a", "Authorization: alice");
        let (_, content, told) = bench.get_with("/a", "Authorization: bob");
        assert_eq!(content == "1", shared, "{fields}: {told}");
    }
}

#[test]
fn requests_with_shared_credentials_collapse() {
    let gate = Gate::new();
    let origin =
        Origin::script([on("GET /a").wait(&gate).send(200, "Cache-Control: max-age=60", "hello")]);
    let proxy = Proxy::before(&origin, &["--share-credentials"]);
    let mut clients: Vec<_> = ["alice", "bob", "carol"]
        .into_iter()
        .map(|who| {
            let mut client = proxy.connect();
            client.request("GET", "/a", &format!("Authorization: {who}\r\n"), "");
            client
        })
        .collect();
    origin.wait_for(1);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().body(), "hello");
    }
    assert_eq!(origin.asked().len(), 1);
}

/// Whoever wonders why nothing is stored learns which flag decides it.
#[test]
fn what_credentials_keep_out_names_the_flag() {
    let origin = Origin::script([on("GET *any*").send(200, "", "hello").always()]);
    let proxy = Proxy::before(&origin, &[]);
    proxy.get_with("/a?token=s3cret", "");
    proxy.get_with("/b", "Authorization: a\r\n");
    proxy.wait_for_log("see --share-credentials");
    let log = proxy.log();
    assert_eq!(log.matches("--share-credentials").count(), 1, "it is said once: {log}");
    assert!(log.contains("/a?token=REDACTED: not stored") && !log.contains("s3cret"), "{log}");
    for field in ["Authorization: a", "Cookie: a", "X-API-Key: a"] {
        let output = run(&["explain", "--origin", &origin.url(), "-H", field, "/a"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("what would change it: --share-credentials"), "{field}: {text}");
    }
}

/// `Retry-After` of a 429 holds back who has been told, and nobody else.
#[test]
fn one_credential_is_held_back_and_others_are_not() {
    for (name, _) in FIELDS.iter().filter(|(name, _)| *name != "Proxy-Authorization") {
        let bench = bench(|_| ());
        bench.answers(429, "Retry-After: 30", "slow down").answers(200, "", "bob's");
        bench.get_with("/a", &format!("{name}: alice"));
        assert_eq!(bench.get_with("/a", &format!("{name}: bob")).1, "bob's", "{name}");
        assert_eq!(bench.get_with("/a", &format!("{name}: alice")).0, 429, "{name}");
    }
    let bench = bench(|_| ());
    bench.answers(429, "Retry-After: 30", "slow down").answers(200, "", "bob's");
    bench.get("/a?token=alice");
    assert_eq!(bench.get("/a?token=bob").1, "bob's");
    assert_eq!(bench.get("/a?page=1&token=alice").0, 429);
}

#[test]
fn the_access_log_holds_no_secrets() {
    for format in ["combined", "json"] {
        let folder = TemporaryFolder::new();
        let log = folder.file("log");
        let origin =
            Origin::script([on("GET *any*").send(200, "Cache-Control: max-age=60", "x").always()]);
        let path = log.to_str().expect("text");
        let proxy = Proxy::before(&origin, &["--access-log", path, "--access-log-format", format]);
        for _ in 0..2 {
            proxy.get_with(
                "/a?x=1&token=s3cret&sig=s3cret",
                "Referer: http://r/?api_key=s3cret\r\n",
            );
        }
        let began = std::time::Instant::now();
        let text = loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.lines().count() == 2 || began.elapsed() > PATIENCE {
                break text;
            }
            super::support::pause();
        };
        assert_eq!(text.matches("/a?x=1&token=REDACTED&sig=REDACTED").count(), 2, "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
