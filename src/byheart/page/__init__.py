"""The shell that every page shares: style, escaping, and arrays as short text."""
