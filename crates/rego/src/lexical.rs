//! Bounds that hold before the parser sees a rule: it recurses with nesting and takes twice as long for each level.

use crate::{COLUMNS_MAX, Dialect, RuleError};

/// Brackets of all kinds inside each other.
const NESTING_MAX: usize = 6;
/// `+ - | & * / %` and `in`: chains of them nest in the parsed tree.
const OPERATORS_MAX: usize = 64;

/// Refuses what is too long, too deep, or too much of a chain.
pub(crate) fn bounded(source: &str, dialect: &Dialect) -> Result<(), RuleError> {
    within("bytes", source.len(), dialect.source_bytes_max)?;
    let code = code(source);
    if dialect.columns_max > COLUMNS_MAX {
        // The parser counts texts as well; without them the bound is the same for all.
        let columns = code.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        within("columns", columns, usize::try_from(COLUMNS_MAX).unwrap_or(usize::MAX))?;
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for character in code.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    within("levels of brackets", deepest, NESTING_MAX)?;
    let words = code.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let operators = code.matches(['+', '-', '|', '&', '*', '/', '%']).count() + words.filter(|word| *word == "in").count();
    within("operators", operators, OPERATORS_MAX)
}

/// Whether the first thing in it is a package statement.
pub(crate) fn has_package(source: &str) -> bool {
    code(source).split_whitespace().next() == Some("package")
}

fn within(what: &'static str, found: usize, max: usize) -> Result<(), RuleError> {
    if found > max { Err(RuleError::TooLarge { what, found, max }) } else { Ok(()) }
}

/// The source without its comments and without the contents of its texts. A text that does not end takes the rest with it;
/// the parser refuses that.
fn code(source: &str) -> String {
    let (mut code, mut characters) = (String::with_capacity(source.len()), source.chars());
    while let Some(character) = characters.next() {
        match character {
            '#' => {
                code.extend(characters.by_ref().find(|character| *character == '\n'));
            }
            '"' => {
                while let Some(inside) = characters.next() {
                    match inside {
                        '\\' => drop(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push('"');
            }
            '`' => {
                characters.by_ref().find(|character| *character == '`');
                code.push('"');
            }
            other => code.push(other),
        }
    }
    code
}
