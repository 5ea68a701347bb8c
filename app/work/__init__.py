"""The models in memory, and the lines of those who wait for them. No Streamlit here."""
