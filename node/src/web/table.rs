//! Tables of pages. On a phone, where none is wide enough, each row becomes a few lines in which every value says of which column it is.

use maud::{Markup, html};

/// A table called `name`: its rows have a value for each of `columns`. A column's name may begin with a sign: # where its values are numbers, which
/// stand on the right; * where they name their rows.
pub fn table<R>(name: &str, columns: &[&str], rows: impl IntoIterator<Item = R>) -> Markup
where
    R: IntoIterator<Item = Markup>,
{
    let none: Option<R> = None;
    summed(name, columns, rows, none)
}

/// One whose last row, if there is one, is the sum of the others.
pub fn summed<R>(name: &str, columns: &[&str], rows: impl IntoIterator<Item = R>, sum: Option<R>) -> Markup
where
    R: IntoIterator<Item = Markup>,
{
    let columns: Vec<Column> = columns.iter().map(|written| Column::of(written)).collect();
    // What a sheet lays out otherwise, browsers take for no table any more unless it says what it is.
    let row = |values: R| {
        let values: Vec<Markup> = values.into_iter().collect();
        debug_assert_eq!(values.len(), columns.len(), "a row of {name}");
        html! { tr role="row" { @for (column, value) in columns.iter().zip(values) {
            @if column.names { th role="rowheader" scope="row" data-column=(column.name) { (value) } }
            @else { td.number[column.number] role="cell" data-column=(column.name) { (value) } }
        } } }
    };
    html! {
        div.wide tabindex="0" role="region" aria-label=(name) {
            table role="table" {
                thead role="rowgroup" { tr role="row" { @for column in &columns {
                    th.number[column.number] role="columnheader" scope="col" { (column.name) }
                } } }
                tbody role="rowgroup" { @for values in rows { (row(values)) } }
                @if let Some(values) = sum { tfoot role="rowgroup" { (row(values)) } }
            }
        }
    }
}

struct Column<'a> {
    name: &'a str,
    number: bool,
    names: bool,
}

impl<'a> Column<'a> {
    fn of(written: &'a str) -> Column<'a> {
        let (number, names) = (written.starts_with('#'), written.starts_with('*'));
        Column { name: &written[usize::from(number || names)..], number, names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_says_of_which_column_it_is() {
        let rows = [["a & b", "1"], ["c", "2"]].map(|row| row.map(|text| html! { (text) }));
        let sum = ["All", "3"].map(|text| html! { (text) });
        let all = summed("Letters", &["*Letter", "#Number"], rows, Some(sum)).into_string();
        for part in [
            r#"<th class="number" role="columnheader" scope="col">Number</th>"#,
            r#"<th role="rowheader" scope="row" data-column="Letter">a &amp; b</th>"#,
            r#"<tfoot role="rowgroup"><tr role="row"><th role="rowheader" scope="row" data-column="Letter">All</th>"#,
        ] {
            assert!(all.contains(part), "{all}");
        }
        assert_eq!(all.matches(r#"<td class="number" role="cell" data-column="Number">"#).count(), 3, "{all}");
    }
}
