"""Data: raw files become immutable ragged parts, parts become network space; torch is never imported here."""
