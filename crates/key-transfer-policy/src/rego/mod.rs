//! The escape hatch: a rule in Rego for what no member of the document can say.
//!
//! A rule is one module, `package keyferry`, with a rule `allow`. It permits where `data.keyferry.allow` is `true` and
//! nothing else: undefined, `false`, another value and every error refuse. It stands beside the other conditions, so it can
//! refuse what they permit and permit nothing that they refuse.
//!
//! # Bounds
//!
//! The interpreter trusts its policy: a module can make it recurse until the stack ends, or compare or build values without
//! ever looking at a clock, and its memory limit needs an allocator of its own, which would be the whole process's. So the
//! language is bounded instead, before anything runs: [`lexical`] bounds length and nesting before the parser (whose time
//! doubles with each level of brackets); the parsed tree, which is read as JSON, may have 128 levels; and [`subset`] admits only expressions that cost no more than their operands have
//! bytes: no functions of one's own, no comprehensions, no partial rules, lists and sets of constants only, `+` and `-`
//! only, and built-in functions whose result is no longer than their argument. What is left to bound is the number of
//! steps, and there the interpreter's timer works, on a clock that counts them: [`EVALUATION_STEPS_MAX`]. So a decision
//! depends on no machine's speed. Memory is bounded by the same three: values are parts
//! of the token (64 KiB) and of the rule (8 KiB), and none grows.

mod lexical;
mod subset;

use std::{
    cell::Cell,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::LazyLock,
    time::Duration,
};

use keyferry_identifiers::KeyId;
use regorus::{
    Engine, LimitError,
    utils::limits::{ExecutionTimerConfig, PolicyLengthConfig, TimeSource, set_time_source},
};
use serde_json::{Map, Value, json};

/// The longest rule.
pub const RULE_BYTES_MAX: usize = 8 * 1024;
/// Steps of one evaluation, about: statements that are tried, and turns of loops. Some microseconds each.
pub const EVALUATION_STEPS_MAX: u32 = 10_000;
/// The longest line: references like `a.b.c` cannot be broken, so this bounds how deep one nests.
const COLUMNS_MAX: u32 = 240;
const LINES_MAX: usize = 400;
const STEPS_BETWEEN_CHECKS: u32 = 16;
const ENTRY: &str = "data.keyferry.allow";

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Over a bound that holds before anything is parsed.
    #[error("the rule has {found} {what}, {max} are allowed")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// Not Rego.
    #[error("the rule is no Rego: {cause}")]
    Syntax {
        /// The interpreter's message, cut.
        cause: String,
    },
    /// Rego, and outside of what is evaluated here.
    #[error("line {line}: {what}")]
    NotAllowed {
        /// Where.
        line: u64,
        /// What is not allowed, and what to write instead.
        what: String,
    },
    /// It fails with a token that has no claims.
    #[error("the rule fails on a token without claims: {cause}")]
    Fails {
        /// The interpreter's message, cut.
        cause: String,
    },
}

/// Why a rule gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("(failed: {cause})")]
pub(crate) struct RuleFailure {
    cause: String,
}

/// A compiled rule. Two rules are equal when their texts are.
#[derive(Clone)]
pub(crate) struct Rule {
    source: String,
    /// Compiled once; each evaluation works on a copy, which shares the compiled module.
    engine: Engine,
    permits_everything: bool,
}

impl Rule {
    pub(crate) fn compile(source: &str) -> Result<Self, RuleError> {
        lexical::bounded(source)?;
        LazyLock::force(&CLOCK);
        let mut engine = Engine::new();
        engine.set_policy_length_config(length());
        engine.set_execution_timer_config(timer());
        engine.set_strict_builtin_errors(true);
        let syntax = |error: &dyn fmt::Display| RuleError::Syntax { cause: cut(error) };
        engine.add_policy("rule".to_owned(), source.to_owned()).map_err(|error| syntax(&error))?;
        let tree = engine.get_ast_as_json().map_err(|error| syntax(&error))?;
        subset::admitted(&serde_json::from_str(&tree).map_err(|error| syntax(&error))?)?;
        engine.compile_with_entrypoint(&ENTRY.into()).map_err(|error| syntax(&error))?;
        let mut rule = Self { source: source.to_owned(), engine, permits_everything: false };
        rule.permits_everything = rule.permits(&Map::new(), "unknown", None).map_err(|RuleFailure { cause }| RuleError::Fails { cause })?;
        Ok(rule)
    }

    /// Whether `data.keyferry.allow` is true for these members of a token in the flat shape.
    pub(crate) fn permits(&self, members: &Map<String, Value>, trust_anchor: &str, key: Option<KeyId>) -> Result<bool, RuleFailure> {
        let mut input = json!({ "token": members, "trust_anchor": trust_anchor });
        if let Some(key) = key {
            input["key_id"] = Value::from(key.to_string());
        }
        let failure = |error: &dyn fmt::Display| RuleFailure { cause: cut(error) };
        let mut engine = self.engine.clone();
        let input = regorus::Value::from_json_str(&input.to_string()).map_err(|error| failure(&error))?;
        engine.set_input(input);
        let answer = engine.eval_rule(ENTRY.to_owned()).map_err(|error| match error.downcast_ref::<LimitError>() {
            Some(_) => RuleFailure { cause: format!("more than {EVALUATION_STEPS_MAX} steps") },
            None => failure(&error),
        })?;
        Ok(answer == regorus::Value::from(true))
    }

    /// Whether it is content with a token that has no claims.
    pub(crate) fn permits_everything(&self) -> bool {
        self.permits_everything
    }

    /// Tells rules apart for people: lines and a checksum.
    pub(crate) fn digest(&self) -> String {
        // FNV-1a: a name in a report, nothing rests on it.
        let digest = self
            .source
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("{digest:016x}")
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
impl Eq for Rule {}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.digest())
    }
}

fn length() -> PolicyLengthConfig {
    let default = PolicyLengthConfig::default();
    PolicyLengthConfig {
        max_col: NonZeroU32::new(COLUMNS_MAX).unwrap_or(default.max_col),
        max_file_bytes: NonZeroUsize::new(RULE_BYTES_MAX).unwrap_or(default.max_file_bytes),
        max_lines: NonZeroUsize::new(LINES_MAX).unwrap_or(default.max_lines),
    }
}

fn timer() -> ExecutionTimerConfig {
    let check_interval = NonZeroU32::new(STEPS_BETWEEN_CHECKS).unwrap_or(NonZeroU32::MIN);
    ExecutionTimerConfig { limit: Duration::from_nanos(EVALUATION_STEPS_MAX.into()), check_interval }
}

/// The interpreter's message without the source lines it quotes: one line, and short.
fn cut(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").chars().take(200).collect()
}

/// What the interpreter's timer takes for a clock: a nanosecond is a step. The interpreter looks at it once in
/// [`STEPS_BETWEEN_CHECKS`] steps, and works on one thread.
struct StepCounter;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

impl TimeSource for StepCounter {
    fn now(&self) -> Option<Duration> {
        let steps = STEPS.get().wrapping_add(STEPS_BETWEEN_CHECKS.into());
        STEPS.set(steps);
        Some(Duration::from_nanos(steps))
    }
}

/// Without a clock the interpreter would not stop: this is forced before any rule is compiled.
static CLOCK: LazyLock<()> = LazyLock::new(|| {
    // It fails only where a clock is set already.
    let _ = set_time_source(&StepCounter);
});
