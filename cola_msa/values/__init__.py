"""What people and files hand in, checked: fields, flags, tables, JSON, names and text.

Knows no music. Imports `system`.
"""
