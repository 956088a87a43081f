"""The documentation: pages in Markdown, and what makes their generated parts."""
