//! RFC 9213 and RFC 8941 as a table: what `CDN-Cache-Control` decides.

use super::support::engine::bench;

/// What wins: the lifetime left after arrival, or why it is not stored.
fn check(table: &[(&str, &str, &str)]) {
    for (section, fields, expected) in table {
        let bench = bench(|settings| {
            settings.storing.freshness.default_ttl = caching_proxy::clock::DeltaSeconds::ZERO;
        });
        bench.answers(200, &format!("Date: Fri, 15 Jan 2027 08:00:00 GMT; {fields}"), "x");
        let first = bench.fetch("GET", "/a", "");
        let sent = fields.split("; ").filter(|field| field.starts_with("CDN-")).count();
        let passed_on = first.fields.get_all("cdn-cache-control").count();
        assert_eq!(passed_on, sent, "RFC 9213 §3: it goes on to the client");
        bench.answers(200, "Cache-Control: no-store", "y");
        let told = bench.fetch("GET", "/a", "").told();
        let got = match told.as_str() {
            hit if hit.starts_with("hit; ") => hit["hit; ".len()..].to_string(),
            stale if stale.starts_with("fwd=stale") => "stale".to_string(),
            _ => first.told().rsplit("detail=").next().unwrap_or_default().to_string(),
        };
        assert_eq!(got, *expected, "RFC {section}: {fields}");
    }
}

#[test]
fn the_targeted_field_decides_alone_where_it_is_valid() {
    #[rustfmt::skip]
    check(&[
        ("2.2", "CDN-Cache-Control: max-age=100; Cache-Control: max-age=1",              "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=10; Cache-Control: max-age=100",             "ttl=10"),
        ("2.2", "CDN-Cache-Control: max-age=100; Cache-Control: no-store",               "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Cache-Control: private",                "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Cache-Control: max-age=0",              "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Expires: Fri, 15 Jan 2027 07:00:00 GMT", "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Expires: 0",                            "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Expires: Fri, 15 Jan 2027 08:05:00 GMT", "ttl=100"),
        ("2.2", "CDN-Cache-Control: max-age=100; Age: 40",                               "ttl=60"),
        ("2.2", "CDN-Cache-Control: max-age=0; Cache-Control: max-age=100",              "stale"),
        ("2.2", "CDN-Cache-Control: no-store; Cache-Control: max-age=100",               "no-store"),
        ("2.2", "CDN-Cache-Control: private; Cache-Control: max-age=100",                "private"),
        ("2.2", "CDN-Cache-Control: no-cache; Cache-Control: max-age=100",               "no-cache"),
        ("2.2", "CDN-Cache-Control: max-age=100, no-store",                              "no-store"),
        ("2.1", "CDN-Cache-Control: max-age=100; CDN-Cache-Control: foo",                "ttl=100"),
        ("2.1", "CDN-Cache-Control: foo=(a b), max-age=100, bar=\"x, max-age=1\"",       "ttl=100"),
        ("2.1", "CDN-Cache-Control: max-age=100;foo=1",                                  "ttl=100"),
        ("2.1", "CDN-Cache-Control: max-age=99999999999",                                "ttl=2147483648"),
        ("2.1", "CDN-Cache-Control: max-age=999999999999999",                            "ttl=2147483648"),
        ("2.1", "CDN-Cache-Control: s-maxage=100, max-age=1",                            "ttl=100"),
        ("2.1", "CDN-Cache-Control: max-age=-5",                                         "stale"),
        ("2.1", "CDN-Cache-Control: max-age=100, no-store=?0",                           "ttl=100"),
        ("2.1", "CDN-Cache-Control: max-age=100, no-cache=\"set-cookie\"",               "ttl=100"),
    ]);
}

#[test]
fn a_targeted_field_that_is_no_dictionary_is_as_good_as_absent() {
    let fresh = "Cache-Control: max-age=60";
    let stale = "Cache-Control: max-age=1; Age: 5";
    #[rustfmt::skip]
    check(&[
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=\"100\"; {fresh}"),            "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=100.5; {fresh}"),              "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age; {fresh}"),                    "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=abc; {fresh}"),                "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age =100; {fresh}"),               "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age= 100; {fresh}"),               "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=100,,no-store; {fresh}"),      "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=100,; {fresh}"),               "ttl=60"),
        ("8941 3.1.2", &format!("CDN-Cache-Control: Max-Age=100; {fresh}"),              "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: max-age=1000000000000000; {fresh}"),   "ttl=60"),
        ("8941 4.2", &format!("CDN-Cache-Control: &&&; {fresh}"),                        "ttl=60"),
        ("2.1",      &format!("CDN-Cache-Control:; {fresh}"),                            "ttl=60"),
        ("2.1",      &format!("CDN-Cache-Control: &&&; {stale}"),                        "stale"),
    ]);
}
