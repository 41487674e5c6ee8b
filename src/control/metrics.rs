//! The counters, for Prometheus, for programs and for people.
//!
//! All three are the table of `stats`, in its order, with what the stores say of themselves. A store that is
//! not there has no numbers, rather than zeros that look like an empty one.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::control::About;
use crate::control::live::Live;
use crate::proxy::Proxy;
use crate::stats::figures::whole_percent;
use crate::stats::history::HistorySpan::{Hour, Minute};
use crate::stats::history::SpanSnapshot;
use crate::stats::{BOUNDS_US, COUNTERS, Counter, CounterKind, CounterSource, Snapshot, Tally};
use crate::store::cache::CacheUsage;

/// All counters of one number, those of the stores included, and the others.
fn snapshot(proxy: &Proxy) -> Snapshot {
    with_usage(proxy, proxy.stats().snapshot())
}

/// The same for what has been counted at some moment.
fn with_usage(proxy: &Proxy, mut snapshot: Snapshot) -> Snapshot {
    let CacheUsage { memory: usage, backing, packed } = proxy.cache().usage();
    snapshot.counts.extend([
        (Counter::MemoryResponses, usage.responses),
        (Counter::MemoryBytes, usage.bytes),
        (Counter::MemoryArrivingBytes, usage.arriving_bytes),
        (Counter::MemoryEvicted, usage.evicted),
        (Counter::MemoryCompressed, packed),
    ]);
    if let Some(backing) = backing {
        // While the store cannot be asked, the rest is known all the same.
        if let Some(usage) = backing.usage {
            snapshot.counts.extend([
                (Counter::StoreResponses, usage.responses),
                (Counter::StoreBytes, usage.bytes),
                (Counter::StoreEvicted, usage.evicted),
            ]);
        }
        snapshot.counts.extend([
            (Counter::StoreFailing, u64::from(backing.is_failing)),
            (Counter::StoreDropped, backing.dropped),
            (Counter::StoreLoaded, backing.loaded),
            (Counter::StoreLoading, u64::from(backing.is_loading)),
        ]);
    }
    snapshot
}

/// Prometheus' text format.
pub(super) fn text(proxy: &Proxy, about: &About) -> String {
    let snapshot = snapshot(proxy);
    let mut out = String::new();
    head(&mut out, "info", "what this proxy is", CounterKind::Gauge);
    // A gauge that is always 1 and carries its facts as labels is Prometheus' custom for such.
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "proxy_info{{version=\"{version}\",address=\"{}\",origin=\"{}\"}} 1",
        about.address,
        escaped(&about.origin)
    );
    for record in &COUNTERS {
        // The ending is Prometheus' rule for what only grows; the JSON form goes without.
        let ending = if record.kind == CounterKind::Total { "_total" } else { "" };
        let name = format!("{}{ending}", record.name);
        let count = snapshot.get(record.counter);
        if matches!(record.source, CounterSource::Labelled(_)) || count.is_some() {
            head(&mut out, &name, record.help, record.kind);
        }
        match record.source {
            CounterSource::Labelled(label) => {
                labelled(&mut out, record.counter, &name, label, &snapshot);
            }
            _ => count.into_iter().for_each(|count| _ = writeln!(out, "proxy_{name} {count}")),
        }
    }
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: CounterKind) {
    let kind = kind.as_str();
    let _ = write!(out, "# HELP proxy_{name} {help}\n# TYPE proxy_{name} {kind}\n");
}

/// The numbers of a counter that has several, one for each value of its label.
fn labelled(out: &mut String, counter: Counter, name: &str, label: &str, snapshot: &Snapshot) {
    let counts = match counter {
        Counter::Forwarded => &snapshot.forwarded,
        Counter::Details => &snapshot.details,
        _ => {
            assert!(counter == Counter::Latency, "{counter:?} is read nowhere");
            histogram(out, name, &format!("{label}=\"hit\""), &snapshot.hits);
            return histogram(out, name, &format!("{label}=\"miss\""), &snapshot.misses);
        }
    };
    for (value, count) in counts {
        let _ = writeln!(out, "proxy_{name}{{{label}=\"{value}\"}} {count}");
    }
}

fn histogram(out: &mut String, name: &str, label: &str, tally: &Tally) {
    // Prometheus' buckets hold all that took no longer than the bound, ours only those above the one before.
    let mut so_far = 0;
    for (bound, count) in BOUNDS_US.iter().zip(tally.buckets) {
        so_far += count;
        let bound = *bound as f64 / 1e6;
        let _ = writeln!(out, "proxy_{name}_bucket{{{label},le=\"{bound}\"}} {so_far}");
    }
    let (total, sum) = (tally.total(), tally.sum_us as f64 / 1e6);
    let _ = writeln!(out, "proxy_{name}_bucket{{{label},le=\"+Inf\"}} {total}");
    let _ = writeln!(out, "proxy_{name}_sum{{{label}}} {sum}");
    let _ = writeln!(out, "proxy_{name}_count{{{label}}} {total}");
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The same as one JSON object, with what was counted over the last minute and hour where there is a history.
pub(super) fn json(proxy: &Proxy, about: &About, live: Option<&Live>) -> Value {
    // The history's own counters are of the same moment, so that no minute has more than all time.
    let now = live.map(Live::moment);
    let snapshot = now
        .as_ref()
        .map_or_else(|| snapshot(proxy), |now| with_usage(proxy, (*now.snapshot).clone()));
    let mut all = Map::new();
    all.insert("address".into(), json!(about.address));
    all.insert("origin".into(), json!(about.origin));
    all.insert("since".into(), json!(about.since.seconds()));
    counted(&mut all, &snapshot);
    for ((live, now), span) in live.zip(now).iter().flat_map(|pair| [(pair, Minute), (pair, Hour)])
    {
        let SpanSnapshot { taken, snapshot } = live.over(span, now);
        let mut of_span = Map::new();
        of_span.insert("seconds".into(), json!((taken + Duration::from_millis(500)).as_secs()));
        counted(&mut of_span, &snapshot);
        all.insert(span.name().into(), Value::Object(of_span));
    }
    Value::Object(all)
}

/// Adds everything that a snapshot has.
fn counted(all: &mut Map<String, Value>, snapshot: &Snapshot) {
    for (counter, count) in &snapshot.counts {
        all.insert(counter.record().name.into(), json!(count));
    }
    let map = |pairs: &[(&'static str, u64)]| -> Map<String, Value> {
        // Prometheus wants every label from the start; a program that reads JSON takes a missing one
        // for zero.
        let used = pairs.iter().filter(|(_, count)| *count > 0);
        used.map(|(name, count)| ((*name).to_string(), json!(count))).collect()
    };
    for (counter, counts) in
        [(Counter::Forwarded, &snapshot.forwarded), (Counter::Details, &snapshot.details)]
    {
        all.insert(counter.record().name.into(), Value::Object(map(counts)));
    }
    for (name, tally) in [("hit_latency", &snapshot.hits), ("miss_latency", &snapshot.misses)] {
        // Nothing counted yet gives 0, not a division by it.
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
}

/// The same for people.
pub(super) fn summary(proxy: &Proxy, about: &About) -> String {
    let snapshot = snapshot(proxy);
    let mut out = format!("http://{} in front of {}\n", about.address, about.origin);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {:<28} {value}", name.replace('_', " "));
    };
    let share = |part: u64, whole: Counter| {
        let whole = snapshot.get(whole).unwrap_or(0);
        format!("{part} ({}%)", whole_percent(part, whole))
    };
    // What clients were given comes first, and how busy the proxy is last: the latter is asked for less often.
    let (of_now, of_clients): (Vec<_>, Vec<_>) =
        snapshot.counts.iter().partition(|(counter, _)| {
            let record = counter.record();
            record.kind == CounterKind::Gauge || record.source == CounterSource::Stores
        });
    for (counter, count) in of_clients {
        let value = match counter {
            Counter::Hit => share(count, Counter::Request),
            Counter::BytesFromCache => share(count, Counter::BytesSent),
            _ => count.to_string(),
        };
        line(counter.record().name, value);
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
    for (counter, count) in of_now {
        line(counter.record().name, count.to_string());
    }
    out
}
