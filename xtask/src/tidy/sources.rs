//! What can be seen in the text of the sources: pages, lengths, names, spans and metrics beside their one place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

use super::map::DECISIONS;

const FOLDERS: [&str; 5] = ["crates", "services", "xtask", "integration-tests", "benches"];
const NAMES_WITHOUT_MEANING: [&str; 9] = ["common", "commons", "util", "utils", "helper", "helpers", "manager", "managers", "misc"];
/// Lines of one file that can still be read in a sitting.
const LINES_MAX: usize = 700;
/// Longer files, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// A pattern that no source may have, and where it may be all the same.
struct Ban {
    pattern: &'static str,
    complaint: &'static str,
    except: &'static [&'static str],
    only_in: fn(&str) -> bool,
}

const BANS: [Ban; 6] = [
    Ban {
        pattern: r"#\[(?:tracing::)?instrument(?:\]|\([^)]*\)?)",
        complaint: "instrument without skip_all records every argument",
        except: &[],
        only_in: everywhere,
    },
    Ban {
        pattern: r"\.(?:u64|f64|i64)_(?:observable_)?(?:counter|histogram|gauge|up_down_counter)\(",
        complaint: "a metric outside telemetry::names",
        except: &["crates/telemetry/"],
        only_in: everywhere,
    },
    Ban {
        pattern: r"\b(?:span|trace_span|debug_span|info_span|warn_span|error_span)!\(",
        complaint: "a span outside telemetry::spans",
        except: &["crates/telemetry/"],
        only_in: everywhere,
    },
    Ban {
        pattern: r"\botel\.(?:name|kind|status_code)\b",
        complaint: "span fields outside telemetry::spans",
        except: &["crates/telemetry/"],
        only_in: everywhere,
    },
    Ban {
        pattern: r"\b(?:Instant::now|SystemTime::now|std::net::|std::env::|env::var)\b",
        complaint: "a decision crate has no clock, network or environment",
        except: &[],
        only_in: is_decision,
    },
    Ban { pattern: r"\b(?:TODO|FIXME|XXX)\b", complaint: "a note to come back is not a plan", except: &[], only_in: everywhere },
];

fn everywhere(_: &str) -> bool {
    true
}

/// The library part of a decision crate; its tests and build script may look at the world.
fn is_decision(file: &str) -> bool {
    DECISIONS.iter().any(|name| file.starts_with(&format!("crates/{name}/src/")))
}

pub(super) fn findings(root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    for file in rust_files(root) {
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        findings.extend(names(&shown));
        match fs::read_to_string(&file) {
            Ok(text) => findings.extend(contents(&shown, &text)),
            Err(error) => findings.push(format!("{shown} cannot be read: {error}")),
        }
    }
    findings
}

fn names(file: &str) -> Vec<String> {
    file.split(['/', '.', '_', '-'])
        .filter(|part| NAMES_WITHOUT_MEANING.contains(part))
        .map(|part| format!("{file}: the name {part:?} promises nothing; say what is inside"))
        .collect()
}

fn contents(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONG_FILES.iter().any(|(long, _)| *long == file) {
        findings.push(format!("{file} has {lines} lines: at most {LINES_MAX} can be read in a sitting"));
    }
    if (file.ends_with("src/lib.rs") || file.ends_with("src/main.rs")) && !text.starts_with("//!") {
        findings.push(format!("{file} does not open with a `//!` page"));
    }
    // The patterns themselves stand in this file.
    if file.starts_with("xtask/src/tidy") {
        return findings;
    }
    for ban in BANS.iter().filter(|ban| (ban.only_in)(file) && !ban.except.iter().any(|place| file.starts_with(place))) {
        findings.extend(found(file, text, ban));
    }
    findings
}

fn found(file: &str, text: &str, ban: &Ban) -> Vec<String> {
    let Ok(pattern) = Regex::new(ban.pattern) else { return vec![format!("tidy's own pattern {} does not compile", ban.pattern)] };
    pattern
        .find_iter(text)
        .filter(|found| !found.as_str().contains("skip_all"))
        .map(|found| format!("{file}:{}: {}", text[..found.start()].matches('\n').count() + 1, ban.complaint))
        .collect()
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn the_sources_of_this_repository_are_tidy() {
        assert_eq!(findings(&run::root()), Vec::<String>::new());
    }

    #[test]
    fn names_that_promise_nothing_are_found() {
        for file in ["crates/bus/src/utils.rs", "crates/common/src/lib.rs", "services/attester/src/token_manager.rs"] {
            assert_eq!(names(file).len(), 1, "{file}");
        }
        assert!(names("crates/bus/src/publish.rs").is_empty());
    }

    #[test]
    fn long_files_and_missing_pages_are_found() {
        assert_eq!(contents("crates/x/src/a.rs", &"\n".repeat(LINES_MAX)), Vec::<String>::new());
        assert_eq!(contents("crates/x/src/a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(contents("crates/x/src/lib.rs", "pub fn f() {}\n"), ["crates/x/src/lib.rs does not open with a `//!` page"]);
        assert!(contents("crates/x/src/lib.rs", "//! A page.\n").is_empty());
    }

    #[test]
    fn stray_spans_metrics_notes_and_clocks_are_found_with_their_line() {
        let finds = |file: &str, text: &str| contents(file, text);
        assert_eq!(
            finds(
                "crates/x/src/a.rs",
                "\n#[instrument]\nfn f() {}\n#[tracing::instrument(level = \"info\")]\nfn g() {}\n#[instrument(skip_all)]\nfn h() {}\n"
            ),
            [
                "crates/x/src/a.rs:2: instrument without skip_all records every argument",
                "crates/x/src/a.rs:4: instrument without skip_all records every argument"
            ]
        );
        assert_eq!(finds("crates/x/src/a.rs", "let c = meter.u64_counter(\"x\");").len(), 1);
        assert_eq!(finds("crates/x/src/a.rs", "let s = tracing::info_span!(\"x\");").len(), 1);
        assert_eq!(finds("crates/telemetry/src/a.rs", "let s = info_span!(\"x\"); meter.u64_counter(\"x\");"), Vec::<String>::new());
        assert_eq!(finds("crates/dcap/src/a.rs", "let t = Instant::now();").len(), 1);
        assert_eq!(finds("crates/bus/src/a.rs", "let t = Instant::now();"), Vec::<String>::new());
        let note = format!("// {}: later\n", concat!("TO", "DO"));
        assert_eq!(finds("crates/x/src/a.rs", &note).len(), 1);
    }
}
