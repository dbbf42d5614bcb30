//! The text format 0.0.4, which every Prometheus, promtool and most others read
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::table::{INFO, LATENCY, PREFIX, Row, rows};
use crate::daemon::status::{LatencyStatus, Status};
use serde_json::Value;

/// The status of a mount as metrics. Each is labelled with its mountpoint, so that several mounts of a machine can be
/// told apart.
pub fn exposition(status: &Status) -> String {
    let mut text = String::new();
    let mountpoint = status.mountpoint.as_str();
    info(&mut text, status);
    // What cannot be serialized would be a map without text keys: there is none.
    let values = serde_json::to_value(status).unwrap_or_default();
    for row in rows() {
        let samples = samples(row, &values);
        if samples.is_empty() {
            continue;
        }
        begin(&mut text, row.name, row.kind_in_words(), row.help);
        for (path, value) in samples {
            let directory = path.as_deref().map(|path| ("path", path));
            let labels = [("mountpoint", mountpoint)].into_iter().chain(directory);
            sample(&mut text, row.name, labels, value);
        }
    }
    latencies(&mut text, mountpoint, &status.latencies);
    text
}

fn begin(text: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\");
    text.push_str(&format!(
        "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
    ));
}

fn sample<'a>(
    text: &mut String,
    name: &str,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    value: f64,
) {
    let labels = labels.into_iter();
    let labels: Vec<String> = labels
        .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
        .collect();
    text.push_str(&format!("{PREFIX}{name}{{{}}} {value}\n", labels.join(",")));
}

fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Values of a row, with what tells them apart where there are several.
fn samples(row: &Row, status: &Value) -> Vec<(Option<String>, f64)> {
    let at = |top: &Value, path: &str| {
        let found = path
            .split('.')
            .try_fold(top.clone(), |value, key| value.get(key).cloned())?;
        row.value(&found)
    };
    match row.path.split_once("[].") {
        None => at(status, row.path)
            .map(|value| (None, value))
            .into_iter()
            .collect(),
        Some((list, below)) => {
            let pointer = format!("/{}", list.replace('.', "/"));
            let each = status.pointer(&pointer).and_then(Value::as_array);
            let each = each.into_iter().flatten();
            each.filter_map(|one| {
                let path = one.get("path").and_then(Value::as_str)?;
                Some((Some(path.to_owned()), at(one, below)?))
            })
            .collect()
        }
    }
}

fn info(text: &mut String, status: &Status) {
    begin(text, INFO.0, "gauge", INFO.1);
    let labels = [
        ("mountpoint", status.mountpoint.as_str()),
        ("name", &status.name),
        ("version", &status.version),
        ("backend", &status.backend.path),
        ("filesystem", &status.backend.filesystem),
        ("engine", &status.engine.name),
    ];
    sample(text, INFO.0, labels, 1.0);
}

fn latencies(text: &mut String, mountpoint: &str, all: &[LatencyStatus]) {
    begin(text, LATENCY.0, "histogram", LATENCY.1);
    for latency in all {
        let labels = [
            ("mountpoint", mountpoint),
            ("of", latency.of.as_str()),
            ("kind", latency.kind.as_str()),
        ];
        let mut count = 0;
        for bucket in &latency.buckets {
            count += bucket.count;
            let bound = match bucket.up_to_us {
                Some(bound_us) => (bound_us as f64 / 1e6).to_string(),
                None => "+Inf".to_owned(),
            };
            let name = format!("{}_bucket", LATENCY.0);
            let bounded = labels.into_iter().chain([("le", bound.as_str())]);
            sample(text, &name, bounded, count as f64);
        }
        let total_seconds = latency.total_us as f64 / 1e6;
        sample(text, &format!("{}_sum", LATENCY.0), labels, total_seconds);
        sample(text, &format!("{}_count", LATENCY.0), labels, count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::{CacheDirectoryStatus, LatencyBucket, State};

    fn bucket(up_to_us: Option<u64>, count: u64) -> LatencyBucket {
        LatencyBucket { up_to_us, count }
    }

    #[test]
    fn numbers_switches_words_lists_and_latencies_are_written() {
        let mut status = Status {
            state: State::Degraded,
            mountpoint: "/mnt/a \"b\"\\c\n".to_owned(),
            longest_wait_ms: 1500,
            ..Status::default()
        };
        status.cache.hit_bytes = 3 << 30;
        status.cache.directories = vec![CacheDirectoryStatus {
            path: "/nvme".to_owned(),
            state: "ok".to_owned(),
            ..CacheDirectoryStatus::default()
        }];
        status.latencies = vec![LatencyStatus {
            of: "read".to_owned(),
            kind: "miss".to_owned(),
            total_us: 2_500_000,
            buckets: vec![bucket(Some(100), 2), bucket(None, 1)],
        }];
        let text = exposition(&status);
        let mount = r#"mountpoint="/mnt/a \"b\"\\c\n""#;
        for wanted in [
            format!("nfs_cachefs_degraded{{{mount}}} 1\n"),
            format!("nfs_cachefs_serving{{{mount}}} 0\n"),
            format!("nfs_cachefs_longest_wait_seconds{{{mount}}} 1.5\n"),
            format!("nfs_cachefs_cache_hit_bytes_total{{{mount}}} 3221225472\n"),
            "# TYPE nfs_cachefs_cache_hit_bytes_total counter\n".to_owned(),
            format!("nfs_cachefs_cache_directory_ok{{{mount},path=\"/nvme\"}} 1\n"),
            format!(
                "nfs_cachefs_latency_seconds_bucket{{{mount},of=\"read\",kind=\"miss\",le=\"0.0001\"}} 2\n"
            ),
            format!(
                "nfs_cachefs_latency_seconds_bucket{{{mount},of=\"read\",kind=\"miss\",le=\"+Inf\"}} 3\n"
            ),
            format!("nfs_cachefs_latency_seconds_sum{{{mount},of=\"read\",kind=\"miss\"}} 2.5\n"),
            format!("nfs_cachefs_latency_seconds_count{{{mount},of=\"read\",kind=\"miss\"}} 3\n"),
        ] {
            assert!(text.contains(&wanted), "{wanted} in\n{text}");
        }
        // What is absent from the status is no metric.
        assert!(!text.contains("backend_away_seconds"), "{text}");
    }
}
