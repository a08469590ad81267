//! What the operator's dashboard and alert rules look at is there: each name, of its kind, with its labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

/// What Prometheus adds to whatever it gets from here.
const ADDED: [&str; 4] = ["domain", "instance", "job", "le"];

/// A figure that Comity keeps.
#[derive(Debug, Default)]
struct Figure {
    is_gauge: bool,
    is_histogram: bool,
    labels: BTreeSet<String>,
}

type Figures = BTreeMap<String, Figure>;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All figures in the sources: `counter!("name", "label" => …)` and its likes.
fn figures_of_the_sources() -> Figures {
    let mut figures = Figures::new();
    let mut folders = vec![repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources are there") {
            let path = entry.expect("they can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                add_figures(&fs::read_to_string(&path).expect("sources are text"), &mut figures);
            }
        }
    }
    figures
}

fn add_figures(source: &str, figures: &mut Figures) {
    for kind in ["counter!(", "gauge!(", "histogram!("] {
        for (at, _) in source.match_indices(kind) {
            let call = &source[at + kind.len()..];
            // `describe_counter!` keeps no figure.
            let is_another = source[..at].ends_with('_');
            let Some(rest) = call.trim_start().strip_prefix('"').filter(|_| !is_another) else { continue };
            let (name, rest) = rest.split_once('"').expect("a name ends");
            let call = rest.split_once(';').map_or(rest, |(call, _)| call);
            let figure = figures.entry(name.to_owned()).or_default();
            figure.is_gauge |= kind == "gauge!(";
            figure.is_histogram |= kind == "histogram!(";
            figure.labels.extend(labels_of(call));
        }
    }
}

/// `"label" => …` of a call.
fn labels_of(call: &str) -> impl Iterator<Item = String> {
    call.match_indices("=>").filter_map(|(at, _)| {
        let before = call[..at].trim_end().strip_suffix('"')?;
        before.rsplit_once('"').map(|(_, label)| label.to_owned())
    })
}

/// What is wrong with an expression, and with the labels that its legend names, for somebody who has these figures.
fn faults(expression: &str, legend: &str, figures: &Figures) -> Vec<String> {
    let mut faults = Vec::new();
    let mut labels: BTreeSet<String> = ADDED.map(str::to_owned).into();
    let mut is_ours_alone = true;
    for (before, name, matchers) in names(expression) {
        if !name.starts_with("comity_") {
            is_ours_alone &= !["process_", "rabbitmq_"].iter().any(|theirs| name.starts_with(theirs));
            continue;
        }
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let of_histogram = part.and_then(|name| figures.get(name)).filter(|figure| figure.is_histogram);
        let Some(figure) = of_histogram.or_else(|| figures.get(name)) else {
            faults.push(format!("nobody counts {name}"));
            continue;
        };
        if figure.is_histogram && of_histogram.is_none() {
            faults.push(format!("{name} is a histogram, of which there are only the parts"));
        }
        let is_rate = ["rate(", "increase("].iter().any(|function| before.ends_with(function));
        if figure.is_gauge && is_rate {
            faults.push(format!("{name} goes down too, and has no rate"));
        }
        let is_known = |label: &&str| figure.labels.contains(*label) || ADDED.contains(label);
        let strange = matchers.iter().filter(|label| !is_known(label));
        faults.extend(strange.map(|label| format!("{name} has no label {label}")));
        labels.extend(figure.labels.iter().cloned());
    }
    if is_ours_alone {
        let strange = grouped(expression).into_iter().chain(named_in(legend)).filter(|label| !labels.contains(*label));
        faults.extend(strange.map(|label| format!("nothing in it has the label {label}")));
    }
    faults
}

/// Every word outside of quotes: what stands before it, the word, and the labels in braces after it.
fn names(expression: &str) -> Vec<(&str, &str, Vec<&str>)> {
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(letter) = expression[at..].chars().next() {
        let rest = &expression[at..];
        let length = if letter == '"' {
            quoted(rest)
        } else if is_of_word(letter) {
            let length = rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len());
            names.push((&expression[..at], &rest[..length], matched(&rest[length..])));
            length
        } else {
            letter.len_utf8()
        };
        at += length;
    }
    names
}

/// How long the text in quotes is with which this begins.
fn quoted(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if letter == '"' && !is_escaped {
            return at + 1;
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    text.len()
}

/// The labels of `{label="…", other!~"…"}`, if this begins so.
fn matched(text: &str) -> Vec<&str> {
    let Some(mut rest) = text.strip_prefix('{') else { return Vec::new() };
    let mut labels = Vec::new();
    while let Some(at) = rest.find(['"', '}']).filter(|at| rest[*at..].starts_with('"')) {
        labels.push(rest[..at].trim_matches(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'));
        rest = &rest[at + quoted(&rest[at..])..];
    }
    labels
}

/// The labels of `by (…)`.
fn grouped(expression: &str) -> Vec<&str> {
    let groups = expression.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',')).map(str::trim).collect()
}

/// The labels of `{{label}}`.
fn named_in(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(label, _)| label.trim()).collect()
}

#[test]
fn the_dashboard_shows_only_what_is_counted() {
    let figures = figures_of_the_sources();
    let text = fs::read_to_string(repository().join("docker/grafana/comity.json")).expect("there is a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut shown = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("a target has an expression");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let faults = faults(expression, legend, &figures);
            assert!(faults.is_empty(), "{}: {expression}: {faults:?}", panel["title"]);
            shown += 1;
        }
    }
    assert!(shown > 40, "only {shown} expressions were found");
    for variable in dashboard["templating"]["list"].as_array().expect("it has variables") {
        let query = variable["definition"].as_str().expect("a variable has a query");
        assert_eq!(faults(query, "", &figures), [""; 0], "{query}");
    }
}

#[test]
fn the_alert_rules_look_only_at_what_is_counted() {
    let figures = figures_of_the_sources();
    let rules = fs::read_to_string(repository().join("docker/prometheus/rules.yml")).expect("there are rules");
    let alerts = rules.lines().filter(|line| line.trim_start().starts_with("- alert: ")).count();
    let expressions: Vec<_> = rules.lines().filter_map(|line| line.trim_start().strip_prefix("expr: ")).collect();
    assert!(alerts > 10 && expressions.len() == alerts, "an expression stands on one line: {expressions:#?}");
    for expression in expressions {
        assert_eq!(faults(expression, "", &figures), [""; 0], "{expression}");
    }
}

#[test]
fn a_figure_that_is_not_there_is_noticed() {
    let mut figures = Figures::new();
    add_figures(
        r#"
        counter!("comity_logins_total", "outcome" => outcome).increment(1);
        gauge!("comity_queue").set(1.0);
        metrics::histogram!(
            "comity_commit_seconds", "engine" => engine.name()).record(seconds);
        describe_counter!("comity_described_total", "what it is");
        "#,
        &mut figures,
    );
    let right = [
        (r#"sum by (outcome) (rate(comity_logins_total{outcome!="x } y", job="comity"}[5m]))"#, "{{outcome}}"),
        ("comity_queue", "{{instance}}"),
        ("histogram_quantile(0.95, sum by (le, engine) (rate(comity_commit_seconds_bucket[5m])))", "{{engine}}"),
        ("sum by (queue) (rabbitmq_queue_messages_ready)", "{{queue}}"),
    ];
    for (expression, legend) in right {
        assert_eq!(faults(expression, legend, &figures), [""; 0], "{expression}");
    }
    let wrong = [
        ("rate(comity_login_total[5m])", "", "nobody counts comity_login_total"),
        ("comity_described_total", "", "nobody counts comity_described_total"),
        (r#"comity_logins_total{outcme="ok"}"#, "", "comity_logins_total has no label outcme"),
        ("rate(comity_queue[5m])", "", "comity_queue goes down too, and has no rate"),
        ("comity_queue_bucket", "", "nobody counts comity_queue_bucket"),
        (
            "rate(comity_commit_seconds[5m])",
            "",
            "comity_commit_seconds is a histogram, of which there are only the parts",
        ),
        ("sum by (reason) (comity_logins_total)", "", "nothing in it has the label reason"),
        ("sum (comity_logins_total)", "{{reason}}", "nothing in it has the label reason"),
    ];
    for (expression, legend, fault) in wrong {
        assert_eq!(faults(expression, legend, &figures), [fault], "{expression}");
    }
}
