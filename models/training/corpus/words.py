"""Made-up data needs words: names, cities, things and tags for the generators of JSON and SQL."""


def _list(words: str) -> list[str]:
    return words.split()


FIRST_NAMES = _list(
    "Ada Alan Alice Amara Andrei Anna Ben Bruno Carla Chen Clara Daniel Diego Elena Emma Erik Fatima Felix Grace Hana "
    "Hugo Ines Ivan Jana Jorge Julia Kofi Lars Laura Leo Lin Lucas Maria Marco Maya Mei Nadia Nora Olga Omar Paul "
    "Priya Rosa Sam Sara Sofia Tom Uma Vera Wei Yuki Zoe"
)
LAST_NAMES = _list(
    "Abe Alvarez Becker Bianchi Brown Chen Costa Diaz Dubois Evans Fischer Garcia Haddad Hansen Ito Ivanov Jones Kim "
    "Kowalski Larsen Lee Lopez Martin Meyer Mori Nguyen Novak Okafor Olsen Patel Perez Petrov Rossi Sato Schmidt Silva "
    "Singh Smith Suzuki Tanaka Wang Weber Young Zhang"
)
CITIES = _list(
    "Paris Berlin Madrid Rome London Tokyo Beijing Cairo Lima Oslo Vienna Prague Lisbon Dublin Boston Chicago Toronto "
    "Sydney Delhi Seoul Moscow Warsaw Athens Helsinki Zurich"
)
ITEMS = _list(
    "laptop phone tablet monitor keyboard mouse printer camera desk chair lamp book notebook pen bag shirt shoes "
    "jacket watch clock cup plate knife bottle bicycle helmet tent guitar piano violin"
)
TAGS = _list(
    "new sale urgent draft public private archived beta stable internal external red green blue large small fast slow"
)
