//! Regular expressions of `pattern`, which JSON Schema takes from ECMA-262, in words that mean the same to the grammar
//! engine. What the two read differently, or only one of them knows, is refused.

use std::iter::Peekable;
use std::str::Chars;

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 1000;
/// The most repetitions of one part.
const MAX_REPEAT: u32 = 1000;
/// ECMA's `.` is any character but a line's end; the grammar engine's knows only one of them.
const DOT: &str = "[^\\n\\r\\x{2028}\\x{2029}]";
/// Fewer than ECMA's white space, so that whatever matches is white space to everybody.
const SPACE: &str = " \\t\\n\\r\\x0b\\x0c";
/// None of ECMA's white space, nor of Unicode's.
const NO_SPACE: &str = "[^\\s\\x{feff}]";

/// The expression in the grammar engine's words.
pub fn rewrite(pattern: &str) -> Result<String, String> {
    if pattern.len() > MAX_LENGTH {
        return Err(format!("an expression is longer than {MAX_LENGTH} bytes"));
    }
    let mut rewriter = Rewriter { rest: pattern.chars().peekable(), out: String::with_capacity(pattern.len()) };
    rewriter.run()?;
    Ok(rewriter.out)
}

struct Rewriter<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(letter) = self.rest.next() {
            match letter {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '.' => self.out.push_str(DOT),
                '(' => self.group()?,
                '{' => self.repetition()?,
                '*' | '+' | '?' => {
                    self.out.push(letter);
                    self.after_repetition()?;
                }
                '}' | ']' => return Err(format!("'{letter}' must be escaped in an expression")),
                '#' | '&' | '~' | '-' => self.out.extend(['\\', letter]),
                letter if letter.is_control() => {
                    return Err("control characters must be escaped in an expression".into());
                }
                letter => self.out.push(letter),
            }
        }
        Ok(())
    }

    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let letter = self.rest.next().ok_or("an expression ends with a backslash")?;
        match (letter, in_class) {
            ('d', true) => self.out.push_str("0-9"),
            ('w', true) => self.out.push_str("0-9A-Za-z_"),
            ('s', true) => self.out.push_str(SPACE),
            ('d' | 'w' | 'D' | 'W', false) => self.out.extend(['\\', letter]),
            ('s', false) => self.out.extend(["[", SPACE, "]"]),
            ('S', false) => self.out.push_str(NO_SPACE),
            ('n' | 'r' | 't', _) => self.out.extend(['\\', letter]),
            ('f', _) => self.out.push_str("\\x0c"),
            ('v', _) => self.out.push_str("\\x0b"),
            (punctuation, _) if punctuation.is_ascii_punctuation() => self.out.extend(['\\', punctuation]),
            _ => return Err(format!("'\\{letter}' in an expression cannot be enforced")),
        }
        Ok(())
    }

    /// A set of characters.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        if self.rest.peek() == Some(&']') {
            return Err("an empty set in an expression cannot be enforced".into());
        }
        // Whether a range may begin at what came last, and whether one has begun.
        let (mut may_begin, mut has_begun) = (false, false);
        while let Some(letter) = self.rest.next() {
            let mut is_set = false;
            match letter {
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => {
                    is_set = matches!(self.rest.peek(), Some('d' | 'w' | 's'));
                    if is_set && has_begun {
                        return Err("a range of an expression must end with a character".into());
                    }
                    self.escape(true)?;
                }
                '-' if may_begin && self.rest.peek() != Some(&']') => {
                    self.out.push('-');
                    (may_begin, has_begun) = (false, true);
                    continue;
                }
                // The grammar engine has meanings for them that ECMA has not.
                '-' | '[' | '&' | '~' | '#' => self.out.extend(['\\', letter]),
                letter if letter.is_control() => {
                    return Err("control characters must be escaped in an expression".into());
                }
                letter => self.out.push(letter),
            }
            may_begin = !is_set && !has_begun;
            has_begun = false;
        }
        Err("a set of an expression has no end".into())
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_some() {
            if self.rest.next_if_eq(&':').is_none() {
                return Err("'(?' other than '(?:' in an expression cannot be enforced".into());
            }
            self.out.push_str("?:");
        }
        Ok(())
    }

    fn repetition(&mut self) -> Result<(), String> {
        let wrong =
            || format!("a repetition in an expression must be like {{2}}, {{2,}} or {{2,5}}, up to {MAX_REPEAT}");
        let mut inside = String::new();
        loop {
            match self.rest.next() {
                Some('}') => break,
                Some(letter) if inside.len() < 12 => inside.push(letter),
                _ => return Err(wrong()),
            }
        }
        let number = |text: &str| {
            text.parse::<u32>().ok().filter(|n| text.bytes().all(|b| b.is_ascii_digit()) && *n <= MAX_REPEAT)
        };
        let is_right = match inside.split_once(',') {
            None => number(&inside).is_some(),
            Some((least, "")) => number(least).is_some(),
            Some((least, most)) => number(least).zip(number(most)).is_some_and(|(least, most)| least <= most),
        };
        if !is_right {
            return Err(wrong());
        }
        self.out.extend(["{", &inside, "}"]);
        self.after_repetition()
    }

    /// Whether a repetition is greedy does not matter to what matches as a whole; a second one is an error to ECMA.
    fn after_repetition(&mut self) -> Result<(), String> {
        self.rest.next_if_eq(&'?');
        match self.rest.peek() {
            Some('*' | '+' | '?' | '{') => Err("a repetition is repeated in an expression".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_the_same_to_both() {
        for (pattern, rewritten) in [
            ("^[a-z]{2,5}$", "^[a-z]{2,5}$"),
            (r"^\d+\.\w*?$", r"^\d+\.\w*$"),
            ("a.b", r"a[^\n\r\x{2028}\x{2029}]b"),
            (r"[\d_.-]", r"[0-9_.\-]"),
            (r"[\w-.]", r"[0-9A-Za-z_\-.]"),
            ("[-a-c-]", r"[\-a-c\-]"),
            (r"[^[&]", r"[^\[\&]"),
            ("(?:a|b)#", r"(?:a|b)\#"),
            (r"\s\S", r"[ \t\n\r\x0b\x0c][^\s\x{feff}]"),
        ] {
            assert_eq!(rewrite(pattern).as_deref(), Ok(rewritten), "{pattern}");
        }
    }

    #[test]
    fn what_they_read_differently_is_refused() {
        for pattern in [
            r"\bword", "(?=x)", "(?<n>x)", r"\1", r"\p{L}", "(?i)x", "a{", "a{,3}", "a{3,2}", "a{1001}", "a**",
            "a+{2}", "[]", "[", "[b-a", r"[a-\d]", r"\u0041", r"\", "]", "}", r"[\D]", r"\cA", "\u{7}",
        ] {
            assert!(rewrite(pattern).is_err(), "{pattern}");
        }
        assert!(rewrite(&"a".repeat(MAX_LENGTH + 1)).is_err());
    }
}
