//! How far rows reach over the values that they lie in, without wrapping around: what is checked before pointers are
//! used must not depend on whether the build checks arithmetic.

/// Values that `rows` rows of `columns` values reach over, each `stride` behind the one before; more than any slice
/// has, where that is more than can be told.
pub(crate) fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    let Some(before) = rows.checked_sub(1) else { return 0 };
    before.checked_mul(stride).and_then(|before| before.checked_add(columns)).unwrap_or(usize::MAX)
}

/// Whether `count` values from `first` on are among `all`.
pub(crate) fn covers(all: usize, first: usize, count: usize) -> bool {
    first.checked_add(count).is_some_and(|end| end <= all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wraps_around_is_more_than_there_is() {
        assert_eq!(extent(0, 5, 8), 0);
        assert_eq!(extent(1, 5, usize::MAX), 5);
        assert_eq!(extent(3, 5, 8), 21);
        for stride in [1 << 62, 1 << 63, usize::MAX] {
            assert_eq!(extent(5, 1, stride), usize::MAX);
        }
        assert_eq!(extent(2, 2, usize::MAX), usize::MAX);
        assert!(covers(8, 8, 0) && covers(8, 3, 5) && !covers(8, 3, 6));
        assert!(!covers(8, usize::MAX - 31, 32));
    }
}
