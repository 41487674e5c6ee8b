//! The counters, for Prometheus, for programs and for people.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::control::About;
use crate::proxy::Proxy;
use crate::stats::{BOUNDS_US, Snapshot, Tally};

/// What the stores hold, by name, with what it is; `true` for what only grows.
fn stores(proxy: &Proxy) -> Vec<(&'static str, &'static str, bool, u64)> {
    let usage = proxy.store().usage();
    let mut all = vec![
        ("memory_responses", "responses stored in memory", false, usage.responses),
        ("memory_bytes", "bytes they take", false, usage.bytes),
        ("memory_arriving_bytes", "bytes of content on its way in", false, usage.arriving_bytes),
        ("memory_evicted", "responses dropped from memory to make room", true, usage.evicted),
    ];
    if let Some(tiers) = proxy.store().tiers() {
        if let Some(backing) = tiers.backing_usage() {
            all.extend([
                (
                    "store_responses",
                    "responses in the store behind memory",
                    false,
                    backing.responses,
                ),
                ("store_bytes", "bytes they take", false, backing.bytes),
                ("store_evicted", "responses dropped there to make room", true, backing.evicted),
            ]);
        }
        let failing = u64::from(tiers.is_failing());
        all.extend([
            ("store_failing", "1 while the store behind memory is left alone", false, failing),
            ("store_dropped", "changes that it did not take", true, tiers.dropped()),
        ]);
    }
    all
}

/// Prometheus' text format.
pub(super) fn text(proxy: &Proxy, about: &About) -> String {
    let Snapshot { counters, forwarded, details, gauges, hits, misses } = proxy.stats().snapshot();
    let mut out = String::new();
    let head = |out: &mut String, name: &str, help: &str, kind: &str| {
        let _ = write!(out, "# HELP proxy_{name} {help}\n# TYPE proxy_{name} {kind}\n");
    };
    head(&mut out, "info", "what this proxy is", "gauge");
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "proxy_info{{version=\"{version}\",address=\"{}\",origin=\"{}\"}} 1",
        about.address,
        escaped(&about.origin)
    );
    for (name, help, count) in counters {
        let name = format!("{name}_total");
        head(&mut out, &name, help, "counter");
        let _ = writeln!(out, "proxy_{name} {count}");
    }
    head(&mut out, "forwarded_total", "requests that went on to the origin server", "counter");
    for (reason, count) in forwarded {
        let _ = writeln!(out, "proxy_forwarded_total{{reason=\"{reason}\"}} {count}");
    }
    head(&mut out, "details_total", "what Cache-Status said in detail", "counter");
    for (detail, count) in details {
        let _ = writeln!(out, "proxy_details_total{{detail=\"{detail}\"}} {count}");
    }
    for (name, help, level) in gauges {
        head(&mut out, name, help, "gauge");
        let _ = writeln!(out, "proxy_{name} {}", level.max(0));
    }
    for (name, help, grows, count) in stores(proxy) {
        let name = if grows { format!("{name}_total") } else { name.to_string() };
        head(&mut out, &name, help, if grows { "counter" } else { "gauge" });
        let _ = writeln!(out, "proxy_{name} {count}");
    }
    head(
        &mut out,
        "latency_seconds",
        "from a request's arrival to the last byte of its answer",
        "histogram",
    );
    for (outcome, tally) in [("hit", &hits), ("miss", &misses)] {
        histogram(&mut out, outcome, tally);
    }
    out
}

fn histogram(out: &mut String, outcome: &str, tally: &Tally) {
    let mut so_far = 0;
    for (bound, count) in BOUNDS_US.iter().zip(tally.buckets) {
        so_far += count;
        let bound = *bound as f64 / 1e6;
        let _ = writeln!(
            out,
            "proxy_latency_seconds_bucket{{outcome=\"{outcome}\",le=\"{bound}\"}} {so_far}"
        );
    }
    let total = tally.total();
    let _ =
        writeln!(out, "proxy_latency_seconds_bucket{{outcome=\"{outcome}\",le=\"+Inf\"}} {total}");
    let _ = writeln!(
        out,
        "proxy_latency_seconds_sum{{outcome=\"{outcome}\"}} {}",
        tally.sum_us as f64 / 1e6
    );
    let _ = writeln!(out, "proxy_latency_seconds_count{{outcome=\"{outcome}\"}} {total}");
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The same as one JSON object.
pub(super) fn json(proxy: &Proxy, about: &About) -> Value {
    let snapshot = proxy.stats().snapshot();
    let mut all = Map::new();
    all.insert("address".into(), json!(about.address));
    all.insert("origin".into(), json!(about.origin));
    all.insert("since".into(), json!(about.since.seconds()));
    for (name, _, count) in &snapshot.counters {
        all.insert((*name).into(), json!(count));
    }
    for (name, _, level) in &snapshot.gauges {
        all.insert((*name).into(), json!(level));
    }
    for (name, _, _, count) in stores(proxy) {
        all.insert(name.into(), json!(count));
    }
    let map = |pairs: &[(&'static str, u64)]| -> Map<String, Value> {
        let used = pairs.iter().filter(|(_, count)| *count > 0);
        used.map(|(name, count)| ((*name).to_string(), json!(count))).collect()
    };
    all.insert("forwarded".into(), Value::Object(map(&snapshot.forwarded)));
    all.insert("details".into(), Value::Object(map(&snapshot.details)));
    for (name, tally) in [("hit_latency", &snapshot.hits), ("miss_latency", &snapshot.misses)] {
        let mean = (tally.sum_us as f64 / 1e6) / (tally.total().max(1) as f64);
        let quantile = |share| tally.quantile_us(share).map(|bound| bound as f64 / 1e6);
        let latency = json!({
            "count": tally.total(),
            "mean_seconds": mean,
            "p50_seconds": quantile(0.5),
            "p99_seconds": quantile(0.99),
        });
        all.insert(name.into(), latency);
    }
    Value::Object(all)
}

/// The same for people.
pub(super) fn summary(proxy: &Proxy, about: &About) -> String {
    let snapshot = proxy.stats().snapshot();
    let mut out = format!("http://{} in front of {}\n", about.address, about.origin);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {:<28} {value}", name.replace('_', " "));
    };
    let of = |name: &str| {
        let counters = &snapshot.counters;
        counters.iter().find(|(other, ..)| *other == name).map_or(0, |(_, _, count)| *count)
    };
    let share = |part: u64, whole: u64| {
        format!("{part} ({}%)", (part * 100).checked_div(whole).unwrap_or(0))
    };
    for (name, _, count) in &snapshot.counters {
        match *name {
            "hits" => line(name, share(*count, of("requests"))),
            "bytes_from_cache" => line(name, share(*count, of("bytes_sent"))),
            _ => line(name, count.to_string()),
        }
    }
    for (reason, count) in snapshot.forwarded.iter().filter(|(_, count)| *count > 0) {
        line(&format!("forwarded: {reason}"), count.to_string());
    }
    for (detail, count) in &snapshot.details {
        line(&format!("detail: {detail}"), count.to_string());
    }
    for (name, tally) in [("hit_latency", &snapshot.hits), ("miss_latency", &snapshot.misses)] {
        let bound = |share| {
            tally
                .quantile_us(share)
                .map_or("-".to_string(), |bound| format!("{} ms", bound as f64 / 1e3))
        };
        line(name, format!("half within {}, 99% within {}", bound(0.5), bound(0.99)));
    }
    for (name, _, level) in &snapshot.gauges {
        line(name, level.to_string());
    }
    for (name, _, _, count) in stores(proxy) {
        line(name, count.to_string());
    }
    out
}
