//! Which Rego is admitted: every node of the parsed tree is named here, or refused. So a new kind of node in a new version
//! of the interpreter is refused until somebody has thought about it.

use serde_json::Value;

use crate::{Dialect, RuleError, time};

/// Rules of one module, heads and defaults together: rules refer to each other, and evaluation follows them.
const RULES_MAX: usize = 32;
/// Alternatives (`else`) of one rule.
const BODIES_MAX: usize = 16;

/// Functions whose result is no larger than their arguments, and which need no more time than their arguments have bytes.
const FUNCTIONS: [&str; 44] = [
    "abs",
    "array.reverse",
    "array.slice",
    "bits.and",
    "bits.or",
    "bits.xor",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "object.subset",
    "round",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.count",
    "strings.reverse",
    "substring",
    "sum",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "upper",
];

type Admitted<T = ()> = Result<T, RuleError>;

/// Judges the tree of one module. Returns the names of its rules, each once.
pub(crate) fn admitted(tree: &Value, dialect: &Dialect) -> Result<Vec<String>, RuleError> {
    let module = &tree[0]["ast"];
    if path(&module["package"]["refr"]).as_deref() != Some(dialect.package) {
        return refused(&module["package"], &format!("the package must be: package {}", dialect.package));
    }
    for import in list(&module["imports"]) {
        let named = path(&import["refr"]).unwrap_or_default();
        let older = dialect.older_syntax && (named == "future.keywords" || named.starts_with("future.keywords."));
        if !(named == "rego.v1" || older) || !import["as"].is_null() {
            return refused(import, "import rego.v1, and nothing else: there is nothing else");
        }
    }
    let rules = list(&module["rules"]);
    if rules.len() > RULES_MAX {
        return Err(RuleError::TooLarge { what: "rules", found: rules.len(), max: RULES_MAX });
    }
    let subset = Subset { dialect };
    rules.iter().try_for_each(|rule| subset.rule(rule))?;
    let mut names: Vec<String> = Vec::new();
    for name in rules.iter().filter_map(|rule| path(&node(rule).1["head"]["Compr"]["refr"])) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match dialect.required_rule {
        Some(required) if !names.iter().any(|name| name == required) => {
            refused(&module["package"], &format!("a rule named {required} is missing"))
        }
        None if names.is_empty() => refused(&module["package"], "there is no rule"),
        _ => Ok(names),
    }
}

struct Subset<'a> {
    dialect: &'a Dialect,
}

impl Subset<'_> {
    fn rule(&self, rule: &Value) -> Admitted {
        let (kind, parts) = node(rule);
        match kind {
            "Default" if list(&parts["args"]).is_empty() && named(&parts["refr"]) => self.expression(&parts["value"], Content::Constant),
            "Spec" => {
                let (kind, head) = node(&parts["head"]);
                if kind != "Compr" || !named(&head["refr"]) {
                    return refused(parts, "only rules with a plain name and one value: no functions, no `contains`, no keys in the name");
                }
                let exports = self.dialect.exports.is_some_and(|exports| path(&head["refr"]).is_some_and(|name| exports(&name)));
                if exports {
                    self.exported(&head["assign"]["value"])?;
                } else {
                    self.assigned(&head["assign"])?;
                }
                let bodies = list(&parts["bodies"]);
                if bodies.len() > BODIES_MAX {
                    return Err(RuleError::TooLarge { what: "alternatives of a rule", found: bodies.len(), max: BODIES_MAX });
                }
                bodies.iter().try_for_each(|body| self.assigned(&body["assign"]).and_then(|()| self.query(&body["query"])))
            }
            _ => refused(parts, "this kind of rule is not evaluated here"),
        }
    }

    fn assigned(&self, assign: &Value) -> Admitted {
        if assign.is_null() { Ok(()) } else { self.expression(&assign["value"], Content::Any) }
    }

    fn query(&self, query: &Value) -> Admitted {
        list(&query["stmts"]).iter().try_for_each(|statement| {
            if !list(&statement["with_mods"]).is_empty() {
                return refused(statement, "`with` is not evaluated here");
            }
            let (kind, parts) = node(&statement["literal"]);
            match kind {
                "SomeVars" => Ok(()),
                "SomeIn" => self.all([&parts["key"], &parts["value"], &parts["collection"]]),
                "Expr" | "NotExpr" => self.expression(&parts["expr"], Content::Any),
                "Every" => self.expression(&parts["domain"], Content::Any).and_then(|()| self.query(&parts["query"])),
                _ => refused(statement, "this kind of statement is not evaluated here"),
            }
        })
    }

    fn expression(&self, expression: &Value, content: Content) -> Admitted {
        let (kind, parts) = node(expression);
        match kind {
            "String" | "RawString" | "Number" | "Bool" | "Null" => return Ok(()),
            "Array" | "Set" => return list(&parts["items"]).iter().try_for_each(|item| self.expression(item, Content::Constant)),
            "Object" => {
                return list(&parts["fields"]).iter().try_for_each(|field| {
                    self.expression(&field[1], Content::Constant).and_then(|()| self.expression(&field[2], Content::Constant))
                });
            }
            "UnaryExpr" => return self.expression(&parts["expr"], content),
            _ if content == Content::Constant => return refused(parts, "lists, sets and objects hold constants only"),
            _ => {}
        }
        match kind {
            "Var" => self.referred(parts),
            "Call" => self.call(parts),
            "RefDot" => self.all([&parts["refr"]]),
            "RefBrack" => self.all([&parts["refr"], &parts["index"]]),
            "BinExpr" | "BoolExpr" | "AssignExpr" => self.all([&parts["lhs"], &parts["rhs"]]),
            "ArithExpr" if parts["op"] == "Add" || parts["op"] == "Sub" => self.all([&parts["lhs"], &parts["rhs"]]),
            "ArithExpr" => refused(parts, "of arithmetic only + and - are evaluated here"),
            "Membership" => self.all([&parts["key"], &parts["value"], &parts["collection"]]),
            "ArrayCompr" | "SetCompr" | "ObjectCompr" => refused(parts, "comprehensions are not evaluated here: use `some` and `every`"),
            _ => refused(parts, "this kind of expression is not evaluated here"),
        }
    }

    /// Nothing may refer to what is exported: it is built of anything, and of it larger things could be built.
    fn referred(&self, parts: &Value) -> Admitted {
        let name = parts["value"].as_str().unwrap_or_default();
        match self.dialect.exports {
            Some(exports) if exports(name) || name == "data" => refused(parts, &format!("nothing may refer to {name}")),
            _ => Ok(()),
        }
    }

    /// An object whose members are objects or any admitted expression.
    fn exported(&self, value: &Value) -> Admitted {
        let (kind, parts) = node(value);
        if kind != "Object" {
            return self.expression(value, Content::Any);
        }
        list(&parts["fields"])
            .iter()
            .try_for_each(|field| self.expression(&field[1], Content::Constant).and_then(|()| self.exported(&field[2])))
    }

    fn call(&self, parts: &Value) -> Admitted {
        let function = path(&parts["fcn"]).unwrap_or_default();
        let of_time = self.dialect.time && time::FUNCTIONS.iter().any(|(name, _)| *name == function);
        if !of_time && !FUNCTIONS.contains(&function.as_str()) {
            return refused(parts, &format!("the function {function} is not evaluated here; these are: {}", FUNCTIONS.join(", ")));
        }
        list(&parts["params"]).iter().try_for_each(|parameter| self.expression(parameter, Content::Any))
    }

    fn all<const N: usize>(&self, expressions: [&Value; N]) -> Admitted {
        expressions.into_iter().filter(|expression| !expression.is_null()).try_for_each(|each| self.expression(each, Content::Any))
    }
}

/// What an expression may be made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Any,
    /// Inside of lists, sets and objects: from variables, values could be built that take forever to compare.
    Constant,
}

/// The kind of a node and its parts; of what is no node, no kind.
fn node(value: &Value) -> (&str, &Value) {
    match value.as_object().map(|object| (object.len(), object.iter().next())) {
        Some((1, Some((kind, parts)))) => (kind, parts),
        _ => ("", &Value::Null),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn named(reference: &Value) -> bool {
    node(reference).0 == "Var"
}

/// `a.b.c` of a reference that is made of names alone.
fn path(reference: &Value) -> Option<String> {
    let (kind, parts) = node(reference);
    match kind {
        "Var" => parts["value"].as_str().map(str::to_owned),
        "RefDot" => Some(format!("{}.{}", path(&parts["refr"])?, parts["field"][1].as_str()?)),
        _ => None,
    }
}

fn refused<T>(parts: &Value, what: &str) -> Admitted<T> {
    Err(RuleError::NotAllowed { line: parts["span"]["line"].as_u64().unwrap_or_default(), what: what.to_owned() })
}
