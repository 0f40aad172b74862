//! The canonical form of expressions that Postgres printed (deparsed).
//!
//! Postgres prints an expression differently after a dump and restore, because the printed text was parsed again:
//! `(ARRAY['a'])::text[]` becomes `ARRAY[('a')::text]`, and `((a AND b) AND c)` becomes `(a AND b AND c)`. Both get the
//! same form here. Everything else is left as it was printed.

use crate::sql::{Dialect, TokenKind, tokens};

/// Returns the canonical form of a printed definition. Text that is not an expression is returned unchanged.
pub(super) fn canonical(text: &str) -> String {
    let Ok(scanned) = tokens(text, Dialect::Postgres) else { return text.to_string() };
    let mut remaining = scanned.iter();
    let mut end = 0;
    let mut stack: Vec<Vec<Node>> = vec![Vec::new()];
    let mut opened: Vec<(String, char)> = Vec::new();
    for token in &mut remaining {
        let before = text[end..token.start].to_string();
        end = token.start + token.text.len();
        let symbol = if token.kind == TokenKind::Symbol { token.text } else { "" };
        match symbol {
            "(" | "[" => {
                opened.push((before, if symbol == "(" { '(' } else { '[' }));
                stack.push(Vec::new());
            }
            ")" | "]" => {
                // A closing bracket without an opening one: the text is not an expression.
                let (Some((space, open)), Some(children)) = (opened.pop(), stack.pop()) else {
                    return text.to_string();
                };
                let group =
                    Node::Group { before: space, open, children: simplified(children, open), close: before };
                match stack.last_mut() {
                    Some(outer) => outer.push(group),
                    None => return text.to_string(),
                }
            }
            _ => {
                let leaf = Node::Leaf { before, text: token.text.to_string(), kind: token.kind };
                match stack.last_mut() {
                    Some(outer) => outer.push(leaf),
                    None => return text.to_string(),
                }
            }
        }
    }
    let [root] = stack.as_mut_slice() else { return text.to_string() };
    let mut out = String::with_capacity(text.len());
    for node in simplified(std::mem::take(root), ' ') {
        node.write(&mut out);
    }
    out.push_str(&text[end..]);
    out
}

/// A token, or brackets with their content, and the white space before it.
#[derive(Clone, Debug)]
enum Node {
    Leaf { before: String, text: String, kind: TokenKind },
    Group { before: String, open: char, children: Vec<Node>, close: String },
}

impl Node {
    fn write(&self, out: &mut String) {
        match self {
            Self::Leaf { before, text, .. } => {
                out.push_str(before);
                out.push_str(text);
            }
            Self::Group { before, open, children, close } => {
                out.push_str(before);
                out.push(*open);
                for child in children {
                    child.write(out);
                }
                out.push_str(close);
                out.push(if *open == '(' { ')' } else { ']' });
            }
        }
    }

    fn symbol(text: &str) -> Self {
        Self::Leaf { before: String::new(), text: text.into(), kind: TokenKind::Symbol }
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self, Self::Leaf { text, kind: TokenKind::Symbol, .. } if text == symbol)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Leaf { text, kind: TokenKind::Word, .. } if text.eq_ignore_ascii_case(word))
    }

    /// Returns the content of brackets that open with this character.
    fn group(&self, bracket: char) -> Option<&[Self]> {
        match self {
            Self::Group { open, children, .. } if *open == bracket => Some(children),
            _ => None,
        }
    }

    /// Replaces the white space before the node.
    fn with_space(mut self, space: &str) -> Self {
        let (Self::Leaf { before, .. } | Self::Group { before, .. }) = &mut self;
        *before = space.into();
        self
    }
}

/// Applies all rewrites to the content of brackets.
fn simplified(nodes: Vec<Node>, open: char) -> Vec<Node> {
    let nodes = cast_elements(nodes);
    let nodes = unwrap_cast_operands(nodes);
    if open == '(' { flatten(nodes) } else { nodes }
}

/// Rewrites `(ARRAY[a, b])::t[]` to `ARRAY[(a)::t, (b)::t]`, as the server does.
fn cast_elements(nodes: Vec<Node>) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
    let mut rest = nodes.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let array = match (first.group('('), after.first().and_then(|next| next.group('['))) {
            (Some([word, elements]), _) if word.is_word("ARRAY") && elements.group('[').is_some() => {
                Some((word.clone().with_space(space_before(first)), elements.clone(), after))
            }
            (_, Some(_)) if first.is_word("ARRAY") => Some((first.clone(), after[0].clone(), &after[1..])),
            _ => None,
        };
        let cast = array.and_then(|(word, elements, after)| {
            let (colons, after) = after.split_first()?;
            if !colons.is_symbol("::") {
                return None;
            }
            let (name, after) = element_type(after)?;
            Some((word, with_cast(elements, &name), after))
        });
        if let Some((word, elements, after)) = cast {
            out.extend([word, elements]);
            rest = after;
        } else {
            out.push(first.clone());
            rest = after;
        }
    }
    out
}

/// Returns the white space before a node.
fn space_before(node: &Node) -> &str {
    let (Node::Leaf { before, .. } | Node::Group { before, .. }) = node;
    before
}

/// Splits off the element type of an array type, and its `[]`.
fn element_type(nodes: &[Node]) -> Option<(Vec<Node>, &[Node])> {
    let length = nodes.iter().position(|node| node.group('[').is_some())?;
    let (name, rest) = nodes.split_at(length);
    let is_name = |node: &Node| match node {
        Node::Leaf { kind, text, .. } => matches!(kind, TokenKind::Word | TokenKind::Quoted) || text == ".",
        Node::Group { .. } => node.group('(').is_some(),
    };
    let is_type = !name.is_empty() && name.iter().all(is_name) && rest[0].group('[')?.is_empty();
    is_type.then(|| (name.to_vec(), &rest[1..]))
}

/// Casts each element of an array constructor to a type.
fn with_cast(elements: Node, name: &[Node]) -> Node {
    let Node::Group { before, open, children, close } = elements else { return elements };
    let mut out = Vec::new();
    for (index, element) in children.split(|node| node.is_symbol(",")).enumerate() {
        if element.is_empty() {
            continue;
        }
        if index > 0 {
            out.push(Node::symbol(","));
        }
        let space = if index > 0 { " " } else { "" };
        match element {
            [word, inner] if word.is_word("ARRAY") && inner.group('[').is_some() => {
                out.extend([word.clone().with_space(space), with_cast(inner.clone(), name)]);
            }
            [first, ..] => {
                let mut children = element.to_vec();
                children[0] = first.clone().with_space("");
                let group = Node::Group { before: space.into(), open: '(', children, close: String::new() };
                out.extend([group, Node::symbol("::")]);
                out.extend(name.iter().cloned());
            }
            [] => {}
        }
    }
    Node::Group { before, open, children: unwrap_cast_operands(out), close }
}

/// Rewrites `(a)::t` to `a::t` and `(a::s)::t` to `a::s::t`. The operand of a cast needs no brackets if it is a name or
/// a value.
fn unwrap_cast_operands(nodes: Vec<Node>) -> Vec<Node> {
    let mut out = Vec::with_capacity(nodes.len());
    let mut nodes = nodes.into_iter().peekable();
    while let Some(node) = nodes.next() {
        let is_cast = nodes.peek().is_some_and(|next| next.is_symbol("::"));
        // Brackets after a name belong to a function call.
        let is_call = out.last().is_some_and(is_callable);
        match node {
            Node::Group { before, open: '(', children, .. }
                if is_cast && !is_call && is_simple(&children) =>
            {
                let mut children = children.into_iter();
                out.extend(children.next().map(|first| first.with_space(&before)));
                out.extend(children);
            }
            other => out.push(other),
        }
    }
    out
}

/// Whether brackets after this node may be a function call's arguments.
fn is_callable(node: &Node) -> bool {
    const OPERATORS: [&str; 14] = [
        "AND", "OR", "NOT", "WHERE", "WHEN", "THEN", "ELSE", "IN", "ON", "CHECK", "DEFAULT", "SELECT",
        "RETURN", "AS",
    ];
    match node {
        Node::Leaf { kind: TokenKind::Word, .. } => !OPERATORS.iter().any(|word| node.is_word(word)),
        Node::Leaf { kind, .. } => *kind == TokenKind::Quoted,
        Node::Group { .. } => false,
    }
}

/// Whether an expression is a name or a value, possibly with casts.
fn is_simple(nodes: &[Node]) -> bool {
    let is_part = |node: &Node| match node {
        Node::Leaf { kind: TokenKind::Symbol, text, .. } => text == "." || text == "::",
        Node::Leaf { .. } => true,
        Node::Group { open, children, .. } => {
            *open == '['
                || children.iter().all(|child| {
                    matches!(child, Node::Leaf { kind: TokenKind::Number, .. }) || child.is_symbol(",")
                })
        }
    };
    let starts = match nodes.first() {
        Some(Node::Leaf { kind, .. }) => *kind != TokenKind::Symbol,
        _ => false,
    };
    // Several words are allowed only after a cast, where they name the type.
    let casts = nodes.iter().position(|node| node.is_symbol("::"));
    let operand = casts.map_or(nodes, |at| &nodes[..at]);
    let words = operand
        .iter()
        .filter(|node| matches!(node, Node::Leaf { kind, .. } if *kind != TokenKind::Symbol))
        .count();
    let dots = operand.iter().filter(|node| node.is_symbol(".")).count();
    starts
        && nodes.iter().all(is_part)
        && words == dots + 1
        && operand.iter().all(|node| matches!(node, Node::Leaf { .. }))
}

/// Rewrites `(a AND b) AND c` to `a AND b AND c`, and `OR` likewise.
fn flatten(nodes: Vec<Node>) -> Vec<Node> {
    for word in ["AND", "OR"] {
        if !is_joined_by(&nodes, word) {
            continue;
        }
        let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
        for operand in operands(&nodes, word) {
            if !out.is_empty() {
                let operator = Node::Leaf { before: " ".into(), text: word.into(), kind: TokenKind::Word };
                out.push(operator);
            }
            let space = if out.is_empty() {
                operand.first().map_or("", space_before).to_string()
            } else {
                " ".into()
            };
            let inner = match operand {
                [one] => one.group('(').filter(|inner| is_joined_by(inner, word)),
                _ => None,
            };
            let mut operand = inner.unwrap_or(operand).to_vec();
            if let Some(first) = operand.first_mut() {
                *first = first.clone().with_space(&space);
            }
            out.extend(operand);
        }
        return out;
    }
    nodes
}

/// Whether expressions are joined by this word, `AND` or `OR`, and not also by the other one.
fn is_joined_by(nodes: &[Node], word: &str) -> bool {
    let has = |word: &str| operands(nodes, word).len() > 1;
    has(word) && !has(if word == "AND" { "OR" } else { "AND" })
}

/// Splits an expression at a word, except inside `CASE`.
fn operands<'a>(nodes: &'a [Node], word: &str) -> Vec<&'a [Node]> {
    let (mut operands, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (index, node) in nodes.iter().enumerate() {
        if node.is_word("CASE") {
            depth += 1;
        } else if node.is_word("END") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && node.is_word(word) {
            operands.push(&nodes[start..index]);
            start = index + 1;
        }
    }
    operands.push(&nodes[start..]);
    operands
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn what_the_server_prints_before_and_after_a_restore_is_one_form() {
        for (before, after) in [
            (
                "((s)::text = ANY ((ARRAY['a'::character varying, 'b,c'::character varying])::text[]))",
                "((s)::text = ANY (ARRAY[('a'::character varying)::text, ('b,c'::character varying)::text]))",
            ),
            (
                "WHERE s::text = ANY (ARRAY['a'::character varying, 'b'::character varying]::text[])",
                "WHERE s::text = ANY (ARRAY['a'::character varying::text, 'b'::character varying::text])",
            ),
            ("(((x >= 1) AND (x <= 2)) AND z)", "((x >= 1) AND (x <= 2) AND z)"),
            ("((a = 1) OR ((x < 1) OR (x > 2)))", "((a = 1) OR (x < 1) OR (x > 2))"),
            (
                "(n = ANY ((ARRAY[1, 2])::numeric(5,2)[]))",
                "(n = ANY (ARRAY[(1)::numeric(5,2), (2)::numeric(5,2)]))",
            ),
        ] {
            assert_eq!(canonical(before), canonical(after));
        }
    }

    #[test]
    fn what_means_something_else_stays_apart() {
        for (one, other) in [
            ("((a AND b) OR c)", "(a AND (b OR c))"),
            ("((a)::text = 'x')", "((a)::integer = 'x')"),
            ("(f(a)::text)", "(f (b)::text)"),
            ("((a + b)::text)", "(a + b::text)"),
            ("(- (1)::numeric)", "((- 1)::numeric)"),
            ("(NOT (a AND b))", "((NOT a) AND b)"),
            ("(a AND CASE WHEN b AND c THEN d END)", "(a AND c AND CASE WHEN b THEN d END)"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in
            ["now()", " SELECT a,\n    b\n   FROM t;", "next of bigint start 1", "(a", "a)", "'x' -- y\n", ""]
        {
            assert_eq!(canonical(text), text);
        }
    }
}
