"""All methods: importing this package registers them. A new method is one file and one line here."""

from fewhertz.methods import pool as pool
