//! Rego modules that always end: [`Module::compile`] admits a text or says what is wrong with it, [`Module::evaluation`]
//! answers what its rules say about one input.
//!
//! # Bounds
//!
//! The interpreter trusts its policy: a module can make it recurse until the stack ends, or compare or build values without
//! ever looking at a clock, and its memory limit needs an allocator of its own, which would be the whole process's. So the
//! language is bounded instead, before anything runs: [`lexical`] bounds length and nesting before the parser (whose time
//! doubles with each level of brackets); the parsed tree, which is read as JSON, may have 128 levels; and [`subset`] admits
//! only expressions that cost no more than their operands have bytes: no functions of one's own, no comprehensions, no
//! partial rules, lists and sets of constants only, `+` and `-` only, and built-in functions whose result is no longer than
//! their argument. What is left to bound is the number of steps, and there the interpreter's timer works, on a clock that
//! counts them: [`EVALUATION_STEPS_MAX`]. So a decision depends on no machine's speed. Memory is bounded by the same three:
//! values are parts of the input and of the module, and none grows. An [`Dialect::exports`] rule may build one object of
//! whatever it likes, because nothing may refer to it, and only so many bytes of it are read.
//!
//! This crate knows nothing of tokens, policies and clocks: `time.now_ns()` is an argument of the evaluation.

mod lexical;
mod steps;
mod subset;
mod time;

use std::{
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::LazyLock,
};

use regorus::{Engine, LimitError, utils::limits::PolicyLengthConfig};
use serde_json::{Map, Value};

/// Steps of one evaluation, about: statements that are tried, and turns of loops. Some microseconds each.
pub const EVALUATION_STEPS_MAX: u32 = 10_000;
/// The longest line of code: references like `a.b.c` cannot be broken, so this bounds how deep one nests.
pub const COLUMNS_MAX: u32 = 240;
const LINES_MAX: usize = 1000;

/// What is admitted besides the common subset, and what has to be there.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// The module's package, a path such as `keyferry`.
    pub package: &'static str,
    /// The text may leave the package statement out.
    pub package_implied: bool,
    /// Texts without `import rego.v1` are in the older syntax, which has no `if`; `future.keywords` may be imported.
    pub older_syntax: bool,
    /// A rule that has to be defined.
    pub required_rule: Option<&'static str>,
    /// Rules whose value may be an object of anything. Nothing may refer to them, nor to `data`.
    pub exports: Option<fn(&str) -> bool>,
    /// `time.now_ns`, `time.parse_rfc3339_ns` and `time.add_date` are there.
    pub time: bool,
    /// The longest text.
    pub source_bytes_max: usize,
    /// The longest line, its texts included; without the contents of its texts it is [`COLUMNS_MAX`] at most.
    pub columns_max: u32,
}

/// Why a text is no module.
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

/// Why a module gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("(failed: {cause})")]
pub struct RuleFailure {
    /// In one short line.
    pub cause: String,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `true`.
    True,
    /// `false`.
    False,
    /// Nothing: none of its bodies holds and it has no default.
    Undefined,
    /// A value that is no truth value.
    Other,
}

/// A compiled module.
#[derive(Clone)]
pub struct Module {
    /// Compiled once; each evaluation works on a copy, which shares the compiled module.
    engine: Engine,
    package: &'static str,
    rules: Vec<String>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({})", self.rules.join(", "))
    }
}

impl Module {
    /// Compiles a text, if `dialect` admits all of it.
    pub fn compile(source: &str, dialect: &Dialect) -> Result<Self, RuleError> {
        let implied = dialect.package_implied && !lexical::has_package(source);
        lexical::bounded(source, dialect)?;
        LazyLock::force(&steps::CLOCK);
        let mut engine = Engine::new();
        engine.set_policy_length_config(length(dialect));
        engine.set_execution_timer_config(steps::timer());
        engine.set_strict_builtin_errors(true);
        engine.set_rego_v0(dialect.older_syntax);
        if dialect.time {
            time::add(&mut engine).map_err(|error| syntax(&error))?;
        }
        let text = if implied { format!("package {}\n{source}", dialect.package) } else { source.to_owned() };
        engine.add_policy("rule".to_owned(), text).map_err(|error| syntax(&error))?;
        let tree = engine.get_ast_as_json().map_err(|error| syntax(&error))?;
        let tree = serde_json::from_str(&tree).map_err(|error| syntax(&error))?;
        let rules = subset::admitted(&tree, dialect).map_err(|error| error.one_line_up(implied))?;
        let entry = dialect.required_rule.or_else(|| rules.first().map(String::as_str)).unwrap_or_default();
        engine.compile_with_entrypoint(&format!("data.{}.{entry}", dialect.package).into()).map_err(|error| syntax(&error))?;
        Ok(Self { engine, package: dialect.package, rules })
    }

    /// The names of its rules, each once.
    pub fn rules(&self) -> &[String] {
        &self.rules
    }

    /// Asks about `input`. `now` (Unix seconds) is what `time.now_ns` says.
    pub fn evaluation(&self, input: &Value, now: u64) -> Result<Evaluation<'_>, RuleFailure> {
        let mut engine = self.engine.clone();
        let input = regorus::Value::from_json_str(&input.to_string()).map_err(|error| failure(&error))?;
        engine.set_input(input);
        Ok(Evaluation { module: self, engine, now, steps: 0 })
    }
}

/// A module and one input. All its answers together may take [`EVALUATION_STEPS_MAX`] steps.
pub struct Evaluation<'a> {
    module: &'a Module,
    engine: Engine,
    now: u64,
    steps: u64,
}

impl fmt::Debug for Evaluation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evaluation({:?}, {} steps)", self.module, self.steps)
    }
}

impl Evaluation<'_> {
    /// What the rule says.
    pub fn answer(&mut self, rule: &str) -> Result<Answer, RuleFailure> {
        Ok(match self.value(rule)? {
            regorus::Value::Bool(true) => Answer::True,
            regorus::Value::Bool(false) => Answer::False,
            regorus::Value::Undefined => Answer::Undefined,
            _ => Answer::Other,
        })
    }

    /// The members of the object that the rule is; none where it is undefined. As JSON it may have `bytes_max` bytes.
    pub fn object(&mut self, rule: &str, bytes_max: usize) -> Result<Map<String, Value>, RuleFailure> {
        let value = self.value(rule)?;
        if value == regorus::Value::Undefined {
            return Ok(Map::new());
        }
        let mut written = Bounded { left: bytes_max, bytes: Vec::new() };
        serde_json::to_writer(&mut written, &value).map_err(|_| too_long(rule, bytes_max))?;
        match serde_json::from_slice(&written.bytes) {
            Ok(Value::Object(members)) => Ok(members),
            _ => Err(RuleFailure { cause: format!("{rule} is no object") }),
        }
    }

    fn value(&mut self, rule: &str) -> Result<regorus::Value, RuleFailure> {
        let before = steps::taken();
        time::set(self.now);
        let value = self.engine.eval_rule(format!("data.{}.{rule}", self.module.package));
        self.steps = self.steps.saturating_add(steps::taken().wrapping_sub(before));
        let over = || RuleFailure { cause: format!("more than {EVALUATION_STEPS_MAX} steps") };
        match value {
            Ok(_) if self.steps > u64::from(EVALUATION_STEPS_MAX) => Err(over()),
            Ok(value) => Ok(value),
            Err(error) if error.downcast_ref::<LimitError>().is_some() => Err(over()),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn too_long(rule: &str, max: usize) -> RuleFailure {
    RuleFailure { cause: format!("{rule} is no JSON of at most {max} bytes") }
}

/// Fails where more than so many bytes are written.
struct Bounded {
    left: usize,
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl RuleError {
    /// For a text before which a line was put.
    fn one_line_up(self, implied: bool) -> Self {
        match self {
            Self::NotAllowed { line, what } if implied => Self::NotAllowed { line: line.saturating_sub(1), what },
            other => other,
        }
    }
}

fn length(dialect: &Dialect) -> PolicyLengthConfig {
    let default = PolicyLengthConfig::default();
    PolicyLengthConfig {
        max_col: NonZeroU32::new(dialect.columns_max).unwrap_or(default.max_col),
        // The package statement may come on top.
        max_file_bytes: NonZeroUsize::new(dialect.source_bytes_max + 64).unwrap_or(default.max_file_bytes),
        max_lines: NonZeroUsize::new(LINES_MAX).unwrap_or(default.max_lines),
    }
}

fn syntax(error: &dyn fmt::Display) -> RuleError {
    RuleError::Syntax { cause: cut(error) }
}

fn failure(error: &dyn fmt::Display) -> RuleFailure {
    RuleFailure { cause: cut(error) }
}

/// The interpreter's message without the source lines it quotes: one line, and short.
fn cut(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim_start_matches("error: ").chars().take(200).collect()
}
