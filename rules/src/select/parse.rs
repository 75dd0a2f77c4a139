//! Selectors as `kubectl -l` takes them: `app=db,tier!=cache,env in (a,b),role notin (x),owner,!legacy`.

use crate::api::{Expression, LabelSelector, Operator};

use super::{SelectorError, check_expression};

const MAX_BYTES: usize = 4096;

/// Reads a selector. `a=b` becomes `matchLabels`, everything else an expression.
pub fn parse_selector(text: &str) -> Result<LabelSelector, SelectorError> {
    if text.len() > MAX_BYTES {
        return Err(SelectorError::TooLong(text.len()));
    }
    let mut scanner = Scanner { text, at: 0 };
    let mut selector = LabelSelector::default();
    scanner.skip_space();
    if scanner.at_end() {
        return Err(SelectorError::Empty);
    }
    loop {
        let expression = requirement(&mut scanner)?;
        check_expression(&expression)?;
        add(&mut selector, expression);
        if scanner.at_end() {
            return Ok(selector);
        }
        scanner.expect(',')?;
    }
}

/// A plain equality reads best as a label; a second one on the same label must not replace the first.
fn add(selector: &mut LabelSelector, expression: Expression) {
    match (expression.operator, expression.values.as_slice()) {
        (Operator::In, [value]) if !selector.match_labels.contains_key(&expression.key) => {
            selector.match_labels.insert(expression.key, value.clone());
        }
        (Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist, _) => {
            selector.match_expressions.push(expression);
        }
    }
}

fn requirement(scanner: &mut Scanner<'_>) -> Result<Expression, SelectorError> {
    if scanner.take("!") {
        let key = scanner.word("the name of a label")?;
        return Ok(Expression { key, operator: Operator::DoesNotExist, values: Vec::new() });
    }
    let key = scanner.word("the name of a label")?;
    if scanner.take("!=") {
        return Ok(Expression { key, operator: Operator::NotIn, values: vec![scanner.word_or_empty()] });
    }
    if scanner.take("==") || scanner.take("=") {
        return Ok(Expression { key, operator: Operator::In, values: vec![scanner.word_or_empty()] });
    }
    if scanner.at_end() || scanner.peek() == Some(',') {
        return Ok(Expression { key, operator: Operator::Exists, values: Vec::new() });
    }
    let at = scanner.at;
    let operator = match scanner.word("`=`, `!=`, `in`, `notin` or `,`")?.as_str() {
        "in" => Operator::In,
        "notin" => Operator::NotIn,
        other => {
            let what = format!("expected `=`, `!=`, `in`, `notin` or `,`, found `{other}`");
            return Err(SelectorError::Syntax { at: at + 1, what });
        }
    };
    scanner.expect('(')?;
    let mut values = vec![scanner.word("a value")?];
    while scanner.take(",") {
        values.push(scanner.word("a value")?);
    }
    scanner.expect(')')?;
    Ok(Expression { key, operator, values })
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.skip_space();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), SelectorError> {
        if self.take(wanted.encode_utf8(&mut [0; 4])) {
            return Ok(());
        }
        Err(self.missed(&format!("`{wanted}`")))
    }

    fn word(&mut self, wanted: &str) -> Result<String, SelectorError> {
        let word = self.word_or_empty();
        if word.is_empty() { Err(self.missed(wanted)) } else { Ok(word) }
    }

    fn word_or_empty(&mut self) -> String {
        let rest = self.rest();
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')'))
            .unwrap_or(rest.len());
        let word = rest[..end].to_owned();
        self.at += end;
        self.skip_space();
        word
    }

    fn missed(&self, wanted: &str) -> SelectorError {
        let found = self.peek().map_or_else(|| "the end".to_owned(), |c| format!("`{}`", c.escape_default()));
        let at = self.text[..self.at].chars().count() + 1;
        SelectorError::Syntax { at, what: format!("expected {wanted}, found {found}") }
    }
}
