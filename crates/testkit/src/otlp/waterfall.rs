//! A trace as a waterfall of text.

use std::{collections::HashMap, fmt::Write};

use super::{Span, SpanKind, TraceReport};

const BAR_COLUMNS_MIN: usize = 10;
const BAR_COLUMNS_MAX: usize = 40;
/// Offset and duration, with their blanks.
const TIMES_COLUMNS: usize = 24;

struct Line<'a> {
    span: &'a Span,
    label: String,
}

pub(super) fn render(report: &TraceReport, columns: usize) -> String {
    let lines = lines(report);
    let service = lines.iter().map(|line| line.span.service.chars().count()).max().unwrap_or_default();
    let label = lines.iter().map(|line| line.label.chars().count()).max().unwrap_or_default();
    let bar = columns.saturating_sub(TIMES_COLUMNS + service + label + 4).clamp(BAR_COLUMNS_MIN, BAR_COLUMNS_MAX);
    let (start, total) = (report.spans.first().map_or(0, |span| span.start_nanoseconds), report.total().as_secs_f64());

    let mut text =
        format!("trace {}: {} spans, {} services, {:.1} ms\n", report.trace_id, report.spans.len(), report.services.len(), total * 1000.0);
    for line in lines {
        let offset = seconds(line.span.start_nanoseconds.saturating_sub(start));
        let duration = line.span.duration.as_secs_f64();
        let drawn = draw(offset, duration, total, bar);
        let _infallible = writeln!(
            text,
            "{:>8.1} ms {:>8.1} ms  {:<service$}  {:<label$}  {}",
            offset * 1000.0,
            duration * 1000.0,
            clean(&line.span.service),
            line.label,
            drawn.trim_end()
        );
    }
    text
}

/// Depth first, children by start; orphans stand at the top level with a mark.
fn lines(report: &TraceReport) -> Vec<Line<'_>> {
    let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in &report.spans {
        if let Some(parent) = &span.parent_id {
            children.entry(parent).or_default().push(span);
        }
    }
    let orphan = |span: &Span| report.orphans.iter().any(|orphan| orphan.span_id == span.span_id);
    let mut waiting: Vec<(&Span, usize)> =
        report.spans.iter().filter(|span| span.parent_id.is_none() || orphan(span)).map(|span| (span, 0)).rev().collect();
    let mut lines = Vec::with_capacity(report.spans.len());
    while let Some((span, depth)) = waiting.pop() {
        // A cycle of forged parents has no root and so never gets here.
        let mark = if orphan(span) { "(parent missing) " } else { "" };
        lines.push(Line { span, label: format!("{}{mark}{}", "  ".repeat(depth), describe(span)) });
        let below = children.get(span.span_id.as_str()).into_iter().flatten();
        waiting.extend(below.map(|child| (*child, depth + 1)).rev());
    }
    lines
}

fn describe(span: &Span) -> String {
    let arrow = match span.kind {
        SpanKind::Client | SpanKind::Producer => "-> ",
        SpanKind::Server | SpanKind::Consumer => "<- ",
        SpanKind::Internal => "",
    };
    let outcome = match (span.attribute("keyferry.decision"), span.attribute("keyferry.reason")) {
        (Some(decision), Some(reason)) => format!(" [{decision}: {reason}]"),
        (Some(decision), None) => format!(" [{decision}]"),
        (None, _) if span.failed => format!(" [error: {}]", span.attribute("error.type").unwrap_or("unknown")),
        (None, _) => String::new(),
    };
    clean(&format!("{arrow}{}{outcome}", span.name))
}

fn clean(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[allow(clippy::cast_precision_loss, reason = "offsets within a trace are far below 2^52 ns")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "both are within the bar's columns"
)]
fn draw(offset: f64, duration: f64, total: f64, columns: usize) -> String {
    let column = |time: f64| if total > 0.0 { (time / total * columns as f64).round() as usize } else { 0 };
    let begin = column(offset).min(columns.saturating_sub(1));
    let length = column(duration).clamp(1, columns - begin);
    format!("{}{}", " ".repeat(begin), "█".repeat(length))
}
